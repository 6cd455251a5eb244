"""Read any video by its time stamps; write H.264 that browsers play."""

from avsmamba.video.container import VideoWarning
from avsmamba.video.mux import join
from avsmamba.video.reader import Video, VideoInfo, open_video
from avsmamba.video.sound import Sound, open_sound
from avsmamba.video.writer import VideoWriter

__all__ = ["Sound", "Video", "VideoInfo", "VideoWarning", "VideoWriter", "join", "open_sound", "open_video"]
