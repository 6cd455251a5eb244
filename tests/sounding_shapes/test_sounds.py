"""Timbres, plans of sounds and waveforms."""

import numpy as np

from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.sounding_shapes.pictures import draw_clip, random_scene
from avsmamba.sounding_shapes.sounds import (
    CLASSES,
    KINDS,
    TIMBRES,
    ClipSpec,
    mix_sounds,
    plan_sounds,
    plan_voices,
    synthesize,
    voices_of,
)


def test_a_class_of_avss_needs_picture_and_sound():
    """By its sound alone it may be one of two, by its picture alone too, by both it is one."""
    assert len(CLASSES) == 13 and len(set(CLASSES)) == 13
    by_voice = {v: [k for k in KINDS if v in voices_of(k)] for v in KINDS}
    assert all(len(kinds) == 2 for kinds in by_voice.values())
    heard, silent = set(), set()
    for pair in range(60):
        for variant in (0, 1):
            clip = ClipSpec("avss", "train", pair, variant, 48, 0)
            scene = random_scene(clip.rng(), KINDS, clip.num_frames, apart=True)
            kinds = [s.kind for s in scene.shapes]
            voices, plan = plan_voices(clip, kinds), plan_sounds(clip, len(kinds))
            assert plan.shape == (len(kinds), clip.num_frames) and clip.num_frames == (10 if clip.part == "v2" else 5)
            assert len(set(kinds)) == len(kinds) in (2, 3)
            for i, (kind, voice) in enumerate(zip(kinds, voices, strict=True)):
                assert voice in voices_of(kind)
                assert [k for k in by_voice[voice] if k in kinds] == [kind]
                (heard if plan[i].any() else silent).add((kind, voice))
            assert clip.part != "v1s" or plan.sum(0).tolist() == [1] * 5
    assert len(heard) == len(silent) == 12


def test_pairs_share_pictures_and_differ_in_sound():
    for pair in range(40):
        for subset in ("s4", "ms3"):
            clips = [ClipSpec(subset, "train", pair, v, 48, 0) for v in (0, 1)]
            scenes = [random_scene(c.rng(), KINDS, 5) for c in clips]
            kinds = [s.kind for s in scenes[0].shapes]
            assert len(set(kinds)) == len(kinds) in (2, 3)
            assert np.array_equal(draw_clip(scenes[0], 48)[0], draw_clip(scenes[1], 48)[0])
            plans = [plan_sounds(c, len(kinds)) for c in clips]
            heard = [set(np.flatnonzero(p.any(1))) for p in plans]
            assert heard[0] != heard[1] and all(0 < len(h) < len(kinds) for h in heard)
            if subset == "s4":
                assert all(p.sum(0).tolist() == [1] * 5 for p in plans)


def test_ms3_has_silent_seconds_and_several_sources():
    plans = [plan_sounds(ClipSpec("ms3", "train", i, v, 48, 0), 3) for i in range(100) for v in (0, 1)]
    sources = np.stack([p.sum(0) for p in plans])
    share = [(sources == n).mean() for n in range(3)]
    assert min(share) > 0.1 and (sources.max(1) == 0).sum() == 0
    assert (np.diff(np.stack([p.any(0) for p in plans]).astype(int), axis=1) != 0).mean() > 0.2


def test_a_sound_is_heard_only_while_its_shape_sounds():
    clip = ClipSpec("ms3", "train", 0, 0, 48, 1)
    on = np.array([[True, False, True, True, False], [False] * 5])
    wave = mix_sounds(clip.rng(3, 0), ["circle", "star"], on).astype(float).reshape(5, 16000)
    loudness = np.sqrt((wave[:, 2000:-2000] ** 2).mean(1))
    assert loudness[on[0]].min() > 20 * loudness[~on[0]].max()


def test_timbres_differ_and_are_equally_loud():
    sounds = {k: synthesize(t, np.random.default_rng(0)) for k, t in TIMBRES.items()}
    assert all(0.3 < np.sqrt((s**2).mean()) < 0.9 and np.abs(s).max() < 3.6 for s in sounds.values())
    spectra = np.stack([log_mel_patches(s, 16000).mean((0, 1, 2)).numpy() for s in sounds.values()])
    assert min(np.corrcoef(spectra)[i, j] < 0.9 for i in range(6) for j in range(i))
