"""NeuromelaninMRI on a small BIDS folder: orientation, scaling, splits, and maps put back."""

import pickle
import sys
import warnings
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from layouts import midbrain, oblique_affine, run_examples, truncate, write_neuromelanin, write_scan
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Grayscale

from captum_hrcam.datasets import slices
from captum_hrcam.datasets.neuromelanin import NeuromelaninMRI
from captum_hrcam.datasets.nifti import from_slices, open_scan, read_slices, stack_shape

# Stored as scanners do (axial, coronal, sagittal; from the feet or from the head) and mirrored.
STORAGE = ["RAS", "LPS", "LAS", "RPI", "LSA", "PSR", "SLA", "ASL", "IPR"]
RANGE = {"slices": (2, 6), "box": (8, 24, 6, 22)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Read only: 20 controls and 10 patients."""
    return write_neuromelanin(tmp_path_factory.mktemp("mri") / "nm", controls=20, patients=10)


@pytest.fixture
def small(tmp_path):
    """To damage: controls sub-01, sub-02; patients sub-03, sub-04."""
    return write_neuromelanin(tmp_path / "nm", controls=2, patients=2)


def participants(root, change):
    path = root / "participants.tsv"
    path.write_text(change(path.read_text()))


def scan(root, subject):
    return root / subject / "anat" / f"{subject}_MTw.nii.gz"


def one_scan(folder, volume, axes, suffix=".nii.gz"):
    """A folder where sub-02, a patient, has the volume, stored along ``axes``."""
    write_scan(folder / "sub-01" / "anat" / "sub-01_MTw.nii", midbrain(True, 0), "RAS")
    write_scan(folder / "sub-02" / "anat" / f"sub-02_MTw{suffix}", volume, axes)
    (folder / "participants.tsv").write_text(
        "participant_id\tgroup\nsub-01\tcontrol\nsub-02\tPD\n", encoding="utf-8-sig"
    )
    return folder


def marked(x, y, z):
    """Noise (28, 32, 8) in RAS order, one bright voxel, and a top slice as bright."""
    volume = np.random.default_rng(0).integers(0, 100, (28, 32, 8)).astype(np.int16)
    volume[:, :, -1] = volume[x, y, z] = 1000  # so bright that no noise is scaled to 1
    return volume


def test_contents(root):
    data = NeuromelaninMRI(root, "all", **RANGE)
    assert data.classes == ("control", "PD")
    assert len(data) == 30 * 4
    assert data.subjects[:5] == ["sub-01"] * 4 + ["sub-02"]
    assert data.levels[:5] == [2, 3, 4, 5, 2]
    assert data.targets == [0] * 80 + [1] * 40
    image, label = data[0]
    assert (image.shape, image.dtype, label) == ((1, 16, 16), torch.float32, 0)
    assert "control 20, PD 10" in repr(data)


def test_whole_slices(small):
    data = NeuromelaninMRI(small, "all")
    assert len(data) == 4 * 8
    assert data[0][0].shape == (1, 32, 28)


def test_no_subject_in_both_splits(root):
    train, test, both = (NeuromelaninMRI(root, s, **RANGE) for s in ("train", "test", "all"))
    assert not set(train.subjects) & set(test.subjects)
    assert sorted(train.subjects + test.subjects) == both.subjects
    groups = Counter(dict(zip(test.subjects, test.targets, strict=True)).values())
    assert groups == {0: 6, 1: 3}  # 0.3 of each group


def test_split_depends_on_the_seed_alone(root, tmp_path):
    test = NeuromelaninMRI(root, "test", **RANGE)
    assert NeuromelaninMRI(root, "test", **RANGE).subjects == test.subjects
    assert NeuromelaninMRI(root, "test", seed=3, **RANGE).subjects != test.subjects
    reversed_rows = tmp_path / "nm"
    reversed_rows.mkdir()
    for folder in root.glob("sub-*"):
        (reversed_rows / folder.name).symlink_to(folder)
    header, *rows = (root / "participants.tsv").read_text().splitlines()
    (reversed_rows / "participants.tsv").write_text("\n".join([header, *rows[::-1]]))
    assert NeuromelaninMRI(reversed_rows, "test", **RANGE).subjects == test.subjects


@pytest.mark.parametrize("axes", STORAGE)
def test_slices_look_the_same_however_stored(axes, tmp_path):
    # Right, anterior, in the third slice from below: top left for a radiologist.
    data = NeuromelaninMRI(one_scan(tmp_path, marked(25, 29, 2), axes), "all")
    item = data.subjects.index("sub-02") + 2
    assert data.levels[item] == 2
    image = data[item][0][0]
    assert divmod(int(image.argmax()), 28) == (32 - 1 - 29, 28 - 1 - 25)
    reference = marked(25, 29, 2)[::-1, ::-1, 2].T
    low, high = np.percentile(marked(25, 29, 2), (1, 99))
    expected = ((reference - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axes", STORAGE)
def test_a_range_is_a_part_of_the_whole(axes, tmp_path):
    write_scan(tmp_path / "scan.nii.gz", midbrain(True, 0), axes)
    image = open_scan(tmp_path / "scan.nii.gz")
    assert stack_shape(image) == (8, 32, 28)
    whole = read_slices(image, 0, 8)
    assert np.array_equal(read_slices(image, 1, 4), whole[1:4])
    assert np.array_equal(from_slices(image, whole).get_fdata(), image.get_fdata())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("axes", STORAGE)
def test_map_comes_back_at_the_same_place(axes, suffix, tmp_path):
    data = NeuromelaninMRI(one_scan(tmp_path, marked(20, 12, 4), axes, suffix), "all", **RANGE)
    items = [i for i, subject in enumerate(data.subjects) if subject == "sub-02"]
    maps = torch.stack([data[i][0] for i in items])
    source = nib.load(data.paths[items[0]])
    for subject, given in [("sub-02", maps), (items[2], maps[2]), (items[1:], maps[1:, 0])]:
        image = data.to_nifti(subject, given)
        values = image.get_fdata()
        voxel = np.unravel_index(values.argmax(), values.shape)
        assert source.get_fdata()[voxel] == 1000
        # The bright voxel's place in the world, from the affine it was written by.
        expected = oblique_affine() @ (20, 12, 4, 1)
        np.testing.assert_allclose(image.affine @ (*voxel, 1), expected, atol=1e-4)
        assert image.shape == source.shape
        assert image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(image.affine, source.affine)


def test_maps_may_be_arrays(tmp_path):
    data = NeuromelaninMRI(one_scan(tmp_path, marked(20, 12, 4), "LSA"), "all", **RANGE)
    maps = torch.randn(4, 16, 16)
    expected = data.to_nifti("sub-02", maps).get_fdata()
    frozen, big_endian = maps.numpy().copy(), maps.numpy().astype(">f4")
    frozen.flags.writeable = False
    flipped = maps.flip(0).numpy()[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (frozen, big_endian, flipped, maps.double().numpy()[:, None]):
            np.testing.assert_array_equal(data.to_nifti("sub-02", array).get_fdata(), expected)
    with pytest.raises(ValueError, match=r"maps: got shape \(3, 16, 16\), expected \(4, 16, 16\)"):
        data.to_nifti("sub-02", frozen[:3])


def test_map_is_zero_outside_the_box_and_survives_a_file(tmp_path):
    data = NeuromelaninMRI(one_scan(tmp_path, marked(20, 12, 4), "LSA"), "all", **RANGE)
    image = data.to_nifti("sub-02", torch.full((4, 1, 16, 16), -2.5))
    image.to_filename(tmp_path / "map.nii.gz")
    read = nib.load(tmp_path / "map.nii.gz")
    values = read.get_fdata()
    assert (values == -2.5).sum() == 4 * 16 * 16
    assert (values == 0).sum() == values.size - 4 * 16 * 16
    source = nib.load(data.paths[-1])
    np.testing.assert_array_equal(read.affine, source.affine)
    for code in ("sform_code", "qform_code"):
        assert read.header[code] == source.header[code]


def test_scan_with_scaled_integers_and_a_fourth_axis(tmp_path):
    folder = one_scan(tmp_path, marked(20, 12, 4), "LPS")
    path = scan(folder, "sub-02")
    stored = nib.load(path)
    values = stored.get_fdata()
    plain = NeuromelaninMRI(folder, "all", **RANGE)[6][0]
    series = nib.Nifti1Image(values[..., None] * 0.37 + 5, stored.affine)
    series.set_data_dtype(np.int16)  # stored with slope and intercept, as from the scanner
    series.to_filename(path)
    data = NeuromelaninMRI(folder, "all", **RANGE)
    torch.testing.assert_close(data[6][0], plain, atol=2e-3, rtol=0)
    assert data.to_nifti("sub-02", torch.zeros(4, 16, 16)).shape == (28, 32, 8, 1)


def test_sessions_and_suffix(small):
    for session in ("ses-1", "ses-2"):
        folder = small / "sub-01" / session / "anat"
        write_scan(folder / f"sub-01_{session}_MTw.nii", midbrain(True, 9), "RAS")
    write_scan(small / "sub-01" / "anat" / "sub-01_T1w.nii.gz", midbrain(True, 9), "RAS")
    with pytest.raises(ValueError, match=r"several kinds, MTw, T1w. Name .* suffix='MTw'"):
        NeuromelaninMRI(small, "all")
    data = NeuromelaninMRI(small, "all", suffix="MTw", **RANGE)
    assert data.subjects.count("sub-01") == 3 * 4
    with pytest.raises(ValueError, match=r"several scans, sub-01_MTw.nii.gz, sub-01_ses-1_MTw"):
        data.to_nifti("sub-01", torch.zeros(12, 16, 16))
    items = [i for i, path in enumerate(data.paths) if "ses-2" in path.name]
    assert data.to_nifti(items, torch.zeros(4, 16, 16)).shape == (28, 32, 8)


def test_magnitude_and_phase_are_two_kinds(small):
    for part in ("mag", "phase"):
        path = small / "sub-01" / "anat" / f"sub-01_part-{part}_MTw.nii"
        write_scan(path, midbrain(True, 9), "RAS")
    scan(small, "sub-01").unlink()
    for subject in ("sub-02", "sub-03", "sub-04"):
        path = scan(small, subject)
        path.rename(path.with_name(f"{subject}_part-mag_MTw.nii.gz"))
    with pytest.raises(ValueError, match=r"kinds, part-mag_MTw, part-phase_MTw\. .*'part-mag_MTw'"):
        NeuromelaninMRI(small, "all")
    data = NeuromelaninMRI(small, "all", suffix="part-mag_MTw", **RANGE)
    assert data.subjects.count("sub-01") == 4
    for path in small.glob("sub-*/anat/*part*"):  # an entity between, as BIDS orders them
        path.rename(path.with_name(path.name.replace("_MTw", "_chunk-1_MTw")))
    data = NeuromelaninMRI(small, "all", suffix="part-mag_MTw", **RANGE)
    assert data.subjects.count("sub-01") == 4


@pytest.mark.parametrize("entity", ["acq-MPRAGE", "ce-gad", "rec-norm"])
def test_another_acquisition_is_another_kind(small, entity):
    write_scan(small / "sub-01" / "anat" / f"sub-01_{entity}_MTw.nii", midbrain(True, 9), "RAS")
    with pytest.raises(ValueError, match=rf"several kinds, MTw, {entity}_MTw\."):
        NeuromelaninMRI(small, "all")
    data = NeuromelaninMRI(small, "all", suffix="MTw", **RANGE)
    assert data.subjects.count("sub-01") == 4
    scan(small, "sub-01").unlink()
    with pytest.raises(ValueError, match=rf"several kinds, MTw, {entity}_MTw\."):
        NeuromelaninMRI(small, "all", suffix="MTw")


def test_a_group_may_be_called_none(small):
    participants(small, lambda text: text.replace("control", "none"))
    assert NeuromelaninMRI(small, "all").classes == ("none", "PD")


def test_group_column_positive_and_several_others(small):
    (small / "participants.tsv").write_text(
        "participant_id\tdx\nsub-01\tcontrol\nsub-02\tMSA\nsub-03\tPD\nsub-04\tPD\n"
    )
    data = NeuromelaninMRI(small, "all", group_column="dx", positive="control")
    assert data.classes == ("MSA/PD", "control")
    assert data.targets == [1] * 8 + [0] * 24


def test_each_volume_is_read_whole_once(small, monkeypatch):
    reads = []
    read = slices.read_slices

    def counted(image, start, stop):
        reads.append((start, stop))
        return read(image, start, stop)

    monkeypatch.setattr(slices, "read_slices", counted)
    data = NeuromelaninMRI(small, "all", **RANGE)
    images = [image for _ in range(2) for image, _ in (data[i] for i in range(len(data)))]
    assert reads == [(0, 8)] * 4
    assert all(torch.equal(a, b) for a, b in zip(images[:16], images[16:], strict=True))
    monkeypatch.setattr(slices, "_CACHE_BYTES", 1)  # room for the latest scan only
    copy = pickle.loads(pickle.dumps(data))
    again = [image for _ in range(2) for image, _ in (copy[i] for i in range(len(copy)))]
    assert reads[4:] == [(2, 6)] * 8
    assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))


def test_transform_in_place_leaves_the_memory_alone(small):
    data = NeuromelaninMRI(small, "all", transform=lambda image: image.mul_(0), **RANGE)
    assert not data[0][0].any()
    data.transform = data.transforms = None
    assert data[0][0].any()


def test_transforms_and_workers(small):
    data = NeuromelaninMRI(small, "all", transform=Grayscale(3), target_transform=float, **RANGE)
    expected = torch.stack([data[i][0] for i in range(len(data))])
    assert len(pickle.dumps(data)) < 20_000  # slices in memory stay behind
    copy = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    loader = DataLoader(copy, batch_size=6, num_workers=2, multiprocessing_context="fork")
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.shape == (16, 3, 16, 16)
    assert torch.equal(images, expected)
    assert labels.tolist() == data.targets


def test_docstring_examples(tmp_path, monkeypatch):
    write_neuromelanin(tmp_path / "nm_mri")
    monkeypatch.chdir(tmp_path)
    assert run_examples(NeuromelaninMRI, {"NeuromelaninMRI": NeuromelaninMRI}).failed == 0
    assert nib.load("map.nii.gz").shape


class TestErrors:
    def test_missing_folder_says_what_is_expected(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere: not found.*BIDS.*not public"):
            NeuromelaninMRI(tmp_path / "nowhere")

    def test_missing_participants(self, small):
        (small / "participants.tsv").unlink()
        with pytest.raises(FileNotFoundError, match=r"participants.tsv: not found"):
            NeuromelaninMRI(small)

    def test_missing_group_column(self, small):
        with pytest.raises(ValueError, match=r"no column 'diagnosis'; it has .*'age', 'group'"):
            NeuromelaninMRI(small, group_column="diagnosis")

    @pytest.mark.parametrize("value", ["n/a", "", "N/A", "NaN", "None"])
    def test_subject_without_group(self, small, value):
        participants(small, lambda text: text.replace("sub-03\t52\tPD", f"sub-03\t52\t{value}"))
        with pytest.raises(ValueError, match=r"participants.tsv: sub-03 has no group"):
            NeuromelaninMRI(small)

    def test_subject_in_two_rows(self, small):
        participants(small, lambda text: text + "sub-03\t52\tcontrol\n")
        with pytest.raises(ValueError, match=r"participants.tsv: 'sub-03' stands in 2 rows"):
            NeuromelaninMRI(small)

    def test_one_scan_in_two_files(self, small):
        gz = scan(small, "sub-01")
        nib.save(nib.load(gz), gz.with_suffix(""))
        with pytest.raises(ValueError, match=r"sub-01_MTw.nii: is there as .nii.gz, too"):
            NeuromelaninMRI(small)

    def test_scan_that_does_not_say_how_the_head_lies(self, small):
        path = scan(small, "sub-01")
        image = nib.Nifti1Image(nib.load(path).get_fdata(), None)
        image.header["sform_code"] = image.header["qform_code"] = 0
        nib.save(image, path)
        with pytest.raises(ValueError, match=r"sub-01_MTw.nii.gz: does not say how the head lies"):
            NeuromelaninMRI(small, "all")

    def test_subject_without_row(self, small):
        participants(small, lambda text: text.replace("sub-04\t53\tPD\n", ""))
        with pytest.raises(ValueError, match=r"no row for sub-04, who has the scan .*MTw.nii.gz"):
            NeuromelaninMRI(small)

    def test_subject_without_scan(self, small):
        scan(small, "sub-02").unlink()
        with pytest.raises(FileNotFoundError, match=r"sub-02.*not found, but .* lists sub-02"):
            NeuromelaninMRI(small)
        with pytest.raises(FileNotFoundError, match=r"sub-01.*\*_T1w.nii.gz: not found"):
            NeuromelaninMRI(small, suffix="T1w")

    def test_positive_absent(self, small):
        with pytest.raises(ValueError, match=r"positive: got 'Parkinson', .* holds \['PD', 'con"):
            NeuromelaninMRI(small, positive="Parkinson")

    def test_no_other_group(self, small):
        participants(small, lambda text: text.replace("control", "PD"))
        with pytest.raises(ValueError, match=r"holds \['PD'\]; expected this group and at least"):
            NeuromelaninMRI(small)

    @pytest.mark.parametrize("slices", [(2, 9), (3, 3), (-1, 4)])
    def test_slices_outside(self, small, slices):
        with pytest.raises(ValueError, match=r"slices: got .* but .*sub-01_MTw.* has 8 slices"):
            NeuromelaninMRI(small, "all", slices=slices)

    @pytest.mark.parametrize("box", [(0, 33, 0, 9), (0, 9, 0, 29), (9, 9, 0, 9), (-1, 9, 0, 9)])
    def test_box_outside(self, small, box):
        with pytest.raises(ValueError, match=r"box: got .*sub-01_MTw.* 32 rows and 28 columns"):
            NeuromelaninMRI(small, "all", box=box)

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
    def test_truncated_scan(self, small, share):
        truncate(scan(small, "sub-01"), share)
        with pytest.raises(OSError, match=r"sub-01_MTw.nii.gz: cannot be read as NIfTI"):
            NeuromelaninMRI(small, "all")[0]

    def test_file_that_is_no_scan(self, small):
        scan(small, "sub-01").write_text("<html>")
        with pytest.raises(OSError, match=r"sub-01_MTw.nii.gz: cannot be read as NIfTI"):
            NeuromelaninMRI(small, "all")

    def test_time_series_and_singular_affine(self, small):
        path = scan(small, "sub-01")
        nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)).to_filename(path)
        with pytest.raises(ValueError, match=r"shape \(4, 4, 4, 3\), expected one 3D volume"):
            NeuromelaninMRI(small, "all")
        header = nib.Nifti1Header()
        header.set_sform(np.diag([1, 0, 1, 1]), code=1)
        nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), None, header).to_filename(path)
        with pytest.raises(ValueError, match=r"sub-01_MTw.nii.gz: its affine is singular"):
            NeuromelaninMRI(small, "all")

    def test_volume_without_contrast(self, small):
        path = scan(small, "sub-01")
        write_scan(path, np.full((28, 32, 8), 7, np.int16), "RAS")
        with pytest.raises(ValueError, match=r"sub-01_MTw.nii.gz: nearly all voxels are 7"):
            NeuromelaninMRI(small, "all")[0]
        write_scan(path, np.full((28, 32, 8), np.nan, np.float32), "RAS")
        with pytest.raises(ValueError, match=r"sub-01_MTw.nii.gz: holds NaN"):
            NeuromelaninMRI(small, "all")[0]

    def test_maps_that_do_not_fit(self, small):
        data = NeuromelaninMRI(small, "all", **RANGE)
        with pytest.raises(ValueError, match=r"maps: got shape \(3, 1, 16, 16\), expected \(4, 16"):
            data.to_nifti("sub-01", torch.zeros(3, 1, 16, 16))
        with pytest.raises(ValueError, match=r"maps: got shape \(1, 64, 4\).*interpolate"):
            data.to_nifti(0, torch.zeros(1, 64, 4))
        with pytest.raises(ValueError, match=r"items: got 'sub-99', expected an item or a subject"):
            data.to_nifti("sub-99", torch.zeros(4, 16, 16))

    def test_unknown_split(self, small):
        with pytest.raises(ValueError, match=r"split: got 'valid', expected one of 'train', 'tes"):
            NeuromelaninMRI(small, "valid")

    def test_without_nibabel(self, small, monkeypatch):
        monkeypatch.setitem(sys.modules, "nibabel", None)
        with pytest.raises(ImportError, match=r'pip install "captum-hrcam\[mri\]"'):
            NeuromelaninMRI(small)
