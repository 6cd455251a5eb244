"""The page on which a video is dropped and what sounds in it is outlined: what `avsmamba web` serves."""
