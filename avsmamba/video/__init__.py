"""Any video in, by time stamps; H.264 that browsers play out."""

from avsmamba.video.container import VideoWarning
from avsmamba.video.mux import join
from avsmamba.video.reader import Video, VideoInfo, open_video
from avsmamba.video.sound import Sound, open_sound
from avsmamba.video.writer import VideoWriter

__all__ = ["Sound", "Video", "VideoInfo", "VideoWarning", "VideoWriter", "join", "open_sound", "open_video"]
