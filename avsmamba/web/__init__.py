"""The page of `avsmamba web`: a video is uploaded and its sounding objects are outlined."""
