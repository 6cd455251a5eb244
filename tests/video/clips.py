"""Small media files with known pictures and tones."""

from fractions import Fraction
from math import ceil

import av
import numpy as np

TOP, BOTTOM = (220, 30, 30), (30, 30, 220)  # the upper and the lower half of every picture
MARK = (240, 240, 240)  # of the square in the upper left corner
TICKS = 90_000
TENTHS = [k / 10 for k in range(16)]
# suffix: codecs of pictures and sound
CODECS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "flac"),
    "webm": ("libvpx-vp9", "libopus"),
    "mov": ("libx264", "pcm_s16le"),
    "avi": ("mpeg4", "libmp3lame"),
}


def picture(height, width, index=0):
    """`(H, W, 3)` uint8: red above blue, a white square in the upper left; green on the right tells `index`."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2], image[height // 2 :] = TOP, BOTTOM
    image[:, width // 2 :, 1] = 20 + 10 * (index % 20)
    image[: height // 4, : width // 4] = MARK
    return image


def close(image, colour, off=24):
    return np.abs(np.median(image.reshape(-1, 3), axis=0).astype(int) - colour).max() <= off


def is_upright(image):
    """Whether it is `picture` of the same size, tiny losses aside."""
    height, width = image.shape[:2]
    h, w = height // 4, width // 4
    return (
        close(image[1 : h - 1, 1 : w - 1], MARK)
        and close(image[h + 2 : 2 * h - 2, 1 : w - 1], TOP)
        and close(image[2 * h + 2 :, 1 : w - 1], BOTTOM)
    )


def index_of(image):
    """The `index` of `picture`, modulo 20."""
    height, width = image.shape[:2]
    part = image[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8, 1]
    return round((float(np.median(part)) - 20) / 10)


def tone(rate, seconds, start, stop, hertz=440.0):
    """`(samples,)` float32: a sine between two times, s, and silence."""
    t = np.arange(round(rate * seconds)) / rate
    return np.where((t >= start) & (t < stop), 0.5 * np.sin(2 * np.pi * hertz * t), 0).astype(np.float32)


def write_clip(
    path,
    size=(48, 64),
    times=None,
    picture_rate=10,
    sound=None,
    rate=48_000,
    layout="mono",
    sound_start=0.0,
    codecs=None,
    rotation=0,
    options=None,
    picture_options=None,
    images=None,
    container_format=None,
):
    """Write pictures at `times` (s; default 10 a second for 1.6 s) and `(samples,)` of sound on all channels."""
    times = [k / 10 for k in range(16)] if times is None else times
    picture_codec, sound_codec = codecs or CODECS[path.suffix[1:]]
    with av.open(str(path), "w", format=container_format, options=options or {}) as container:
        pictures = None
        if picture_codec:
            pictures = container.add_stream(picture_codec, rate=picture_rate, options=picture_options or {})
            pictures.height, pictures.width = size
            odd = size[0] % 2 or size[1] % 2
            pictures.pix_fmt = "yuv444p" if odd and picture_codec == "libx264" else "yuv420p"
            # AVI has no time stamps but counts pictures
            base = Fraction(1, picture_rate) if path.suffix == ".avi" else Fraction(1, TICKS)
            pictures.codec_context.time_base = base
            if rotation:
                pictures.set_display_rotation(rotation)
        sounds = None
        if sound is not None:
            sounds = container.add_stream(sound_codec, rate=rate, layout=layout)
        for k, time in enumerate(times if pictures else ()):
            image = images[k] if images is not None else picture(*size, k)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(pictures.encode(frame))
        if pictures:
            container.mux(pictures.encode(None))
        for frame in sound_frames(sound, rate, layout, sound_start) if sounds else ():
            container.mux(sounds.encode(frame))
        if sounds:
            container.mux(sounds.encode(None))
    return path


def sound_frames(sound, rate, layout, start=0.0, size=1024):
    """16-bit frames of `(samples,)` float32 on every channel of a layout."""
    channels = av.AudioLayout(layout).nb_channels
    samples = np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16)
    for k in range(ceil(len(samples) / size)):
        part = np.repeat(samples[k * size : (k + 1) * size], channels)[None]
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, k * size + round(start * rate)
        frame.time_base = Fraction(1, rate)
        yield frame
