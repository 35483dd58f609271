"""Bands: every missing shard in one of them, the same bytes however a micrograph is divided, memory flat in its height."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.errors import SettingsError
from microseg_ray.geometry import Box, ceil_to
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard, ReceptiveField
from microseg_ray.models.predictor import Predictor, load_predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.models.strips import stream
from microseg_ray.runs.bands import Division, band_pixels, band_tax
from microseg_ray.runs.segment import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.streaming import Streamer
from microseg_ray.runs.tasks import BandTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import ClassSpec, SegmentSettings
from microseg_ray.sources import View
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.seams import audit_mask

CLASSES = (ClassSpec(name="a"), ClassSpec(name="b"), ClassSpec(name="c"))
SHARD = 64
LIMITS = (0.0, 255.0)


@pytest.fixture(scope="module", autouse=True)
def no_image_is_small():
    """So that small images are divided into strips, too."""
    kept, stream.WHOLE_PIXELS = stream.WHOLE_PIXELS, 0
    yield
    stream.WHOLE_PIXELS = kept


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A small network whose classes are mixed, in float32."""
    torch.manual_seed(1)
    model = build_model("resunet", 1, 3, {"width": 4, "depth": 2, "detail": 4, "dilations": (1,)}).eval()
    field = measure_receptive_field(model, 1)
    card = ModelCard(architecture="resunet", in_channels=1, classes=CLASSES, receptive_field=field)
    return Predictor(model, card, precision="fp32", threads=1)


def plan_of(field: ReceptiveField, **options) -> EnginePlan:
    chosen = {
        "tile": 128,
        "halo": field.halo,
        "stride": field.stride,
        "shard": SHARD,
        "strip": 16,
        "strip_width": 1 << 16,
    }
    return EnginePlan(**{**chosen, **options})


def pixels_of(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape[0] * 7 + shape[1]).integers(0, 256, (1, *shape), dtype=np.uint8)


def stitched(predictor, image, plan, division, parts, *, bar=0):
    """The mask and the extra output of a micrograph, from all of its bands, the last one first."""
    shape = image.shape[1:]
    spec = MaskSpec(shape, CLASSES, plan.shard)
    mask = np.full(shape, 7, np.uint8)
    extra = np.full((3, *shape), -1, np.float32)
    every = [(row, column) for row in range(spec.shards[0]) for column in range(spec.shards[1])]
    specimen = Box(0, 0, shape[0] - bar, shape[1])
    for shards in reversed(list(division.bands(every, shape, parts))):
        found = band_pixels(
            predictor.strips(plan.strip),
            lambda box: image[(..., *box.slices)],
            shards,
            spec,
            specimen,
            division,
            LIMITS,
            raw_scores=plan.extra == "probabilities",
        )
        for shard, result in found:
            box = spec.box(shard)
            mask[box.slices] = result.mask
            if result.extra is not None:
                extra[(..., *box.slices)] = result.extra
    return mask, extra


def whole_scores(predictor, image, stride):
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)), mode="reflect")
    return predictor.scores(padded[None], LIMITS)[0, :, :height, :width]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 200)) | st.sampled_from([(1, 1), (1, 150), (300, 1), (129, 65)]),
    st.integers(1, 5),
    st.sampled_from([8, 16, 40]),
    st.sampled_from([SHARD, 2 * SHARD, 1 << 16]),
)
def test_any_division_is_the_whole_pass(predictor, shape, parts, strip, width):
    field = predictor.card.receptive_field
    plan = plan_of(field, strip=strip, strip_width=width, extra="probabilities")
    image = pixels_of(shape)
    mask, scores = stitched(predictor, image, plan, Division(plan, 1), parts)
    expected = whole_scores(predictor, image, field.stride)
    # torch may round in another way for another shape; where the two best classes are that close, either may win.
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-4
    assert (mask == expected.argmax(axis=0))[clear].all()
    assert len(np.unique(mask)) > 1 or min(shape) < 8


@pytest.mark.parametrize("shape", [(300, 200), (70, 150), (1, 90), (90, 1)])
def test_strips_are_the_tiles(predictor, shape):
    field = predictor.card.receptive_field
    plan = plan_of(field)
    image = pixels_of(shape)
    mask, _ = stitched(predictor, image, plan, Division(plan, 1), 2)
    tiles = plan_of(field, strip=0, strip_width=0)
    grid = engine_grid(shape, tiles)
    other = np.empty(shape, np.uint8)
    spec = MaskSpec(shape, CLASSES, SHARD)
    for shard in np.ndindex(*spec.shards):
        box = spec.box(shard)
        region, _ = shard_window(grid, box, tiles)
        other[box.slices] = predict_shard(image[(..., *region.slices)], predictor, grid, box, tiles, LIMITS).mask
    assert np.count_nonzero(mask != other) <= 1e-4 * mask.size


def test_below_the_specimen_nothing_is_measured(predictor):
    plan = plan_of(predictor.card.receptive_field)
    image = pixels_of((200, 100))
    mask, _ = stitched(predictor, image, plan, Division(plan, 1), 1, bar=80)
    assert (mask[120:] == 255).all()
    cut, _ = stitched(predictor, image[:, :120], plan, Division(plan, 1), 1)
    assert np.array_equal(mask[:120], cut)


@given(
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1),
    st.integers(1, 6),
    st.sampled_from([SHARD, 2 * SHARD, 1 << 16]),
)
def test_every_missing_shard_is_in_one_band(missing, parts, width):
    plan = EnginePlan(tile=64, halo=8, stride=8, shard=SHARD, strip=16, strip_width=width)
    division = Division(plan, 1)
    found = list(division.bands(sorted(missing), (10 * SHARD, 5 * SHARD), parts))
    assert sorted(shard for band in found for shard in band) == sorted(missing)
    for band in found:
        rows = sorted({row for row, _ in band})
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert len({division.columns(shard, 5 * SHARD) for shard in band}) == 1
        assert list(band) == sorted(band)


def test_nothing_is_computed_twice_where_one_band_is_the_micrograph():
    plan = EnginePlan(tile=64, halo=24, stride=8, shard=SHARD, strip=16, strip_width=1 << 16)
    spec = MaskSpec((1000, 800), (), SHARD)
    assert band_tax((1000, 800), spec, Division(plan, 1), 1) == 1.0
    assert 1.0 < band_tax((1000, 800), spec, Division(plan, 4), 4) < 1.2


class _Counting:
    """A stream that says which rows it was asked to read, and fails once for want of memory."""

    def __init__(self, inner, fails: bool) -> None:
        self.inner, self.fails = inner, fails
        self.rows: list[int] = []

    def strips(self, rows):
        self.rows.append(rows)
        return self

    def run(self, *args, **options):
        for number, part in enumerate(self.inner.strips(self.rows[-1]).run(*args, **options)):
            if self.fails and number == 6:
                self.fails = False
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            yield part


def test_for_want_of_memory_smaller_strips_give_the_same_bytes(predictor):
    plan = plan_of(predictor.card.receptive_field, strip=32)
    image = pixels_of((400, 96))
    model = _Counting(predictor, fails=True)
    streamer = Streamer(plan, CLASSES, lambda _path, _view, box: image[(..., *box.slices)], lambda: model)
    spec = MaskSpec((400, 96), CLASSES, SHARD)
    every = tuple((row, column) for row in range(spec.shards[0]) for column in range(spec.shards[1]))
    task = BandTask("m", "m", "", View((400, 96)), LIMITS, every)
    found = {shard: result.mask.copy() for shard, result in streamer.stream(task)}
    assert model.rows == [32, 8]
    calm, _ = stitched(predictor, image, plan, Division(plan, 1), 1)
    assert sorted(found) == sorted(every)
    differing = sum(np.count_nonzero(found[shard] != calm[spec.box(shard).slices]) for shard in every)
    assert differing <= 2


def test_what_a_strip_reads_does_not_grow_with_the_height(predictor):
    plan = plan_of(predictor.card.receptive_field)
    peaks = []
    for height in (512, 2048):
        image = pixels_of((height, 64))
        read = []

        def reading(box, image=image, read=read):
            read.append(box.height)
            return image[(..., *box.slices)]

        spec = MaskSpec((height, 64), CLASSES, SHARD)
        every = [(row, 0) for row in range(spec.shards[0])]
        division = Division(plan, 1)
        for _ in band_pixels(predictor.strips(16), reading, every, spec, Box.of_shape((height, 64)), division, LIMITS):
            pass
        peaks.append(max(read))
    assert peaks[0] == peaks[1] < 512


def chosen(archive, checkpoint, output, **options):
    return SegmentSettings(
        **{
            "archive": str(archive),
            "checkpoint": str(checkpoint),
            "output": str(output),
            "shard": 256,
            "workers": 0,
            "runtime": "torch",
            "path": "strips",
            **options,
        }
    )


def masks(run):
    return {name: np.asarray(MaskStore.open(run.store_path(name)).mask[:]) for name in run.names()}


def test_a_run_in_strips_is_the_run_in_tiles(archive, checkpoint, tmp_path):
    """To the byte in float32, but for pixels on the edge between two classes (kernels round by the shape of a tile)."""
    strips, tiles = (
        segment(chosen(archive, checkpoint, tmp_path / path, path=path, precision="fp32"))
        for path in ("strips", "tiles")
    )
    assert strips.run.identity.pixels["path"] == "strips"
    assert "path" not in tiles.run.identity.pixels
    assert strips.plan.verdict == tiles.plan.verdict == "exact"
    for name, mask in masks(strips.run).items():
        assert np.count_nonzero(mask != masks(tiles.run)[name]) <= 1e-4 * mask.size, name


def test_a_band_that_is_cut_keeps_its_committed_rows(archive, checkpoint, tmp_path):
    class Cut(ArchiveWorker):
        def stream(self, task, **options):
            for shard, result in super().stream(task, **options):
                if task.name == "large.tif" and shard == (2, 0):
                    raise ValueError("cut")
                yield shard, result

    first = segment(chosen(archive, checkpoint, tmp_path / "run"), worker_class=Cut)
    assert [failure.path for failure in first.ledger.failures] == ["large.tif"]
    assert MaskStore.open(first.run.store_path("large.tif")).missing() == [(2, 0), (2, 1), (2, 2)]
    assert first.ledger.computed == 6  # the other micrographs lose nothing
    again = segment(chosen(archive, checkpoint, tmp_path / "run"))
    assert again.ledger.computed == 3
    calm = segment(chosen(archive, checkpoint, tmp_path / "calm"))
    for name, mask in masks(again.run).items():
        assert np.array_equal(mask, masks(calm.run)[name])


@pytest.mark.parametrize("extra", ["margin", "entropy", "probabilities"])
def test_extra_outputs_are_those_of_tiles(archive, checkpoint, tmp_path, extra):
    found = [
        np.asarray(
            zarr.open_group(
                segment(
                    chosen(archive / "exact.tif", checkpoint, tmp_path / path, path=path, precision="fp32", extra=extra)
                ).run.store_path("exact.tif"),
                mode="r",
            )[extra][:],
            dtype=np.float32,
        )
        for path in ("strips", "tiles")
    ]
    assert np.abs(found[0] - found[1]).max() <= (1e-3 if extra == "probabilities" else 1)


@pytest.mark.parametrize("options", [{"tta": True}, {"blend": "hann"}, {"tile": 64}, {"batch": 2}, {"memory": 0.3}])
def test_strips_that_are_not_possible_are_refused_with_the_reason(archive, checkpoint, tmp_path, options):
    with pytest.raises(SettingsError, match=r"strips are not possible|raise memory"):
        segment(chosen(archive, checkpoint, tmp_path / "run", path="strips", **options))


def test_the_audit_finds_a_wrong_mask(archive, checkpoint, tmp_path):
    run = segment(chosen(archive / "exact.tif", checkpoint, tmp_path / "run")).run
    model = load_predictor(checkpoint, precision="bf16", threads=1)
    field = model.card.receptive_field
    image = tifffile.imread(archive / "exact.tif")[None]
    mask = masks(run)["exact.tif"]
    plan = EnginePlan(tile=ceil_to(64, field.stride), halo=field.halo, stride=field.stride, shard=256, strip=256)

    def audited(found):
        return audit_mask(
            lambda box: image[(..., *box.slices)], lambda box: found[box.slices], model, mask.shape, plan, (0.0, 255.0)
        )

    good = audited(mask)
    assert good.pixels > 0
    assert good.seam_argmax_flips <= 2
    assert audited((mask + 1) % 3).seam_argmax_flips == good.pixels
