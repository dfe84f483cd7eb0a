"""The published protocols in examples/go4align/published: readers, losses, metrics, nets, runs."""

import contextlib
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples" / "go4align" / "published"
_PARTS = {}


@contextlib.contextmanager
def beside_the_scripts():
    """Import ``parts`` as the scripts do, and leave no such common name behind."""
    sys.path.insert(0, str(FOLDER))
    sys.modules.update(_PARTS)
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in [name for name in sys.modules if name.partition(".")[0] == "parts"]:
            _PARTS[name] = sys.modules.pop(name)


def part(name):
    with beside_the_scripts():
        return importlib.import_module(f"parts.{name}")


def script(name):
    """Return a script as a module, or skip without the libraries that its data need."""
    for needed in {"celeba": ["PIL"], "qm9": ["torch_geometric", "rdkit"]}.get(name, []):
        with warnings.catch_warnings():
            # torch_geometric compiles some functions with torch.jit, which torch deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            pytest.importorskip(needed)
    spec = importlib.util.spec_from_file_location(f"published_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with beside_the_scripts():
        spec.loader.exec_module(module)
    return module


checkpoint, command, dense, dense_data, protocol, segnet_mtan, training = map(
    part,
    ["checkpoint", "command", "dense", "dense_data", "protocol", "segnet_mtan", "training"],
)
dense_protocol, errors = part("dense_protocol"), part("errors")
nyuv2, cityscapes = script("nyuv2"), script("cityscapes")
ProtocolError = errors.ProtocolError


# ---------------------------------------------------------------------------- data of the tests


def write_arrays(root, layout, size=(32, 32), n_train=4, n_val=3):
    """Write a data set of random pixels in the published format, with some unknown pixels."""
    rng = np.random.default_rng(0)
    for split, n in (("train", n_train), ("val", n_val)):
        for i in range(n):
            normal = rng.normal(size=(*size, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            unknown = rng.random(size) < 0.2
            maps = {
                "image": rng.random((*size, 3)),
                "segmentation": rng.integers(-1, layout.n_classes, size).astype(np.float64),
                "depth": np.where(unknown, 0, rng.uniform(1, 5, size))[..., None],
                "normal": np.where(unknown[..., None], 0, normal).astype(np.float32),
            }
            for what, name in layout.folders.items():
                path = root / split / name / f"{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, maps[what])
    return root


def write_faces(root, counts=(6, 3, 3)):
    """Write CelebA's three parts, with pictures of the published size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (root / "img_align_celeba").mkdir(parents=True)
    attributes, partition = [], []
    for i in range(1, sum(counts) + 1):
        name = f"{i:06d}.jpg"
        pixels = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
        signs = " ".join(f"{sign:2d}" for sign in rng.choice([-1, 1], 40))
        attributes.append(f"{name} {signs}")
        partition.append(f"{name} {np.searchsorted(np.cumsum(counts), i)}")
    head = [str(sum(counts)), " ".join(part("celeba_data").ATTRIBUTES) + " "]
    (root / "list_attr_celeba.txt").write_text("\n".join([*head, *attributes]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return root


SMILES = "C N O C#C C#N C=O CC CO CC#C CC=O C1CC1 COC C1CN1 CCO".split()  # noqa: SIM905


def write_molecules(root, n_left_out=1):
    """Write QM9's raw files: structures, a table of constants and targets, and a list to skip."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    raw = root / "raw"
    raw.mkdir(parents=True)
    with Chem.SDWriter(str(raw / "gdb9.sdf")) as writer:
        for i, smiles in enumerate(SMILES, start=1):
            molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
            assert AllChem.EmbedMolecule(molecule, randomSeed=1) == 0
            molecule.SetProp("_Name", f"gdb_{i}")
            writer.write(molecule)
    columns = "A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom"
    columns = ["mol_id", *columns.split(), "h298_atom", "g298_atom"]
    values = np.random.default_rng(0).normal(size=(len(SMILES), 19)).round(4)
    rows = [f"gdb_{i}," + ",".join(map(str, row)) for i, row in enumerate(values, start=1)]
    (raw / "gdb9.sdf.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    skipped = [f"  {i}  gdb_{i}  CC  CC" for i in range(1, n_left_out + 1)]
    (raw / "uncharacterized.txt").write_text("\n".join([*["header"] * 9, *skipped, "end", ""]))
    return root


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """Leave out the report, most of whose second goes into drawing, except where a test asks."""
    if "report" not in request.fixturenames:
        monkeypatch.setattr(training, "write_report", lambda folder: folder / "report.html")


@pytest.fixture
def report():
    """Ask for the report."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a function from a script's name to a folder with its data, written once."""
    made = {}

    def folder(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            if name == "nyuv2":
                write_arrays(root, nyuv2.NYUv2.layout)
            elif name == "cityscapes":
                write_arrays(root, cityscapes.CityScapes.layout)
            elif name == "celeba":
                write_faces(root)
            else:
                write_molecules(root)
            made[name] = root
        return made[name]

    return folder


SMALL = {
    "nyuv2": ["--width", "2"],
    "cityscapes": ["--width", "2", "--batch", "2"],
    "celeba": ["--width", "2", "--batch", "3"],
    "qm9": ["--width", "8", "--batch", "3", "--held-out", "3"],
}


def arguments(name, data, out, method, *more):
    fixed = ["--data", str(data(name)), "--out", str(out), "--method", method, "--log-every", "1"]
    return [*fixed, *SMALL[name], *map(str, more)]


# -------------------------------------------------------------------- reader of image-like tasks


def test_arrays_are_read_with_channels_first(tmp_path):
    layout = nyuv2.NYUv2.layout
    write_arrays(tmp_path, layout)
    tasks = ("segmentation", "depth", "normal")
    items = dense_data.ArrayFolders(layout, tmp_path, "train", tasks)
    assert len(items) == 4
    item = items[2]
    shapes = {what: (tuple(x.shape), x.dtype) for what, x in item.items()}
    assert shapes == {
        "image": ((3, 32, 32), torch.float32),
        "segmentation": ((32, 32), torch.int64),
        "depth": ((1, 32, 32), torch.float32),
        "normal": ((3, 32, 32), torch.float32),
    }
    stored = np.load(tmp_path / "train" / "normal" / "2.npy")
    assert item["normal"][2, 5, 7] == stored[5, 7, 2]
    assert set(item["segmentation"].unique().tolist()) == set(range(-1, 13))


def test_limit_takes_the_first_items_and_a_task_its_own_folder(tmp_path):
    layout = cityscapes.CityScapes.layout
    write_arrays(tmp_path, layout)
    for path in (tmp_path / "train" / "label_7").iterdir():
        path.unlink()
    items = dense_data.ArrayFolders(layout, tmp_path, "train", ("depth",), limit=2)
    assert len(items) == 2
    assert list(items[0]) == ["image", "depth"]
    assert len(dense_data.ArrayFolders(layout, tmp_path, "val", ("depth",), limit=99)) == 3


def save(array):
    return lambda path: np.save(path, array)


def label(value):
    array = np.zeros((32, 32))
    array[3, 4] = value
    return save(array)


FLOATS = np.ones((32, 32, 3))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train/image/1.npy", Path.unlink, r"image/1\.npy is missing.*numbered from 0"),
        ("train/depth/3.npy", Path.unlink, r"depth has 3 files.*image has 4"),
        ("train/image/1.npy", save(FLOATS[:, :30]), r"image/1\.npy has shape \(32, 30, 3\)"),
        ("train/depth/1.npy", save(FLOATS[..., 0]), r"depth/1\.npy has shape \(32, 32\); expected"),
        ("train/label/1.npy", save(FLOATS), r"label/1\.npy has shape \(32, 32, 3\)"),
        ("train/image/1.npy", save(FLOATS.astype("uint8")), r"image/1\.npy has dtype uint8"),
        ("train/label/1.npy", label(13), r"label/1\.npy has the label 13.*from -1.*to 12"),
        ("train/label/1.npy", label(-2), r"label/1\.npy has the label -2"),
        ("train/label/1.npy", label(0.5), r"label/1\.npy has the label 0\.5"),
        ("train/label/1.npy", label(math.nan), r"label/1\.npy has the label nan"),
        ("train/label/1.npy", save(np.full((32, 32), "a")), r"label/1\.npy has dtype <U1"),
        (
            "train/depth/1.npy",
            save(FLOATS[..., :1] * np.inf),
            r"depth/1\.npy has values .* not",
        ),
        ("train/normal/1.npy", lambda p: p.write_bytes(b"PK"), r"normal/1\.npy cannot be read"),
        ("train/normal/1.npy", save(np.array([None])), r"normal/1\.npy cannot be read"),
    ],
)
def test_bad_arrays_are_named(tmp_path, file, damage, message):
    layout = nyuv2.NYUv2.layout
    write_arrays(tmp_path, layout)
    damage(tmp_path / file)
    with pytest.raises(ProtocolError, match=message):
        dense_data.ArrayFolders(layout, tmp_path, "train", ("segmentation", "depth", "normal"))[1]


def test_size_that_cannot_be_halved_five_times(tmp_path):
    write_arrays(tmp_path, nyuv2.NYUv2.layout, size=(32, 48))
    with pytest.raises(ProtocolError, match="multiples of 32"):
        dense_data.ArrayFolders(nyuv2.NYUv2.layout, tmp_path, "train", ("depth",))[0]
    with pytest.raises(ValueError, match="multiples of 32"):
        segnet_mtan.SegNetMTAN({"depth": 1}, width=2)(torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize("module", [nyuv2, cityscapes])
def test_missing_arrays_say_what_to_download(tmp_path, module):
    with pytest.raises(ProtocolError, match=r"lorenmt/mtan.*\{train,val\}/\{image,label.*depth"):
        module.main(["--data", str(tmp_path)])


# ------------------------------------------------------------------------------- augmentation


def columns_item(height=32, width=64):
    """Return maps that all tell in which column of the original a pixel lay."""
    column = torch.arange(width).expand(height, width)
    normal = torch.tensor([0.6, 0.8, 0.0])[:, None, None].expand(3, height, width)
    return {
        "image": column.float().expand(3, height, width).clone(),
        "segmentation": column.clone(),
        "depth": column[None].float() + 1,
        "normal": normal.clone(),
    }


def test_augmentation_keeps_maps_together():
    seen = set()
    for seed in range(60):
        item = columns_item()
        kept = {what: x.clone() for what, x in item.items()}
        new = dense_data.augment(item, np.random.default_rng(seed))
        assert all(torch.equal(item[what], kept[what]) for what in item)
        assert {w: (x.shape, x.dtype) for w, x in new.items()} == {
            w: (x.shape, x.dtype) for w, x in item.items()
        }
        column = new["segmentation"]
        scales = (column + 1) / new["depth"][0]
        scale = min(dense_data.SCALES, key=lambda s: abs(s - scales[0, 0]))
        assert torch.allclose(scales, torch.full_like(scales, scale))
        # The crop has 1/scale of the columns, and interpolation stays within one of them.
        assert column.max() - column.min() == int(64 / scale) - 1
        assert (new["image"][0] - column).abs().max() <= 1
        steps = column[0].diff()
        mirrored = bool((steps <= 0).all())
        assert mirrored or (steps >= 0).all()
        x, y, z = new["normal"].unbind()
        assert torch.allclose(x, torch.tensor(-0.6 if mirrored else 0.6))
        assert torch.allclose(y, torch.tensor(0.8))
        assert torch.equal(z, torch.zeros_like(z))
        if scale == 1 and not mirrored:
            assert all(torch.equal(new[what], item[what]) for what in item)
        seen.add((scale, mirrored, int(column.min())))
    assert {(s, m) for s, m, _ in seen} == {(s, m) for s in (1, 1.2, 1.5) for m in (True, False)}
    assert len({left for *_, left in seen}) > 8


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    def images(seed, epoch):
        seen = dense_protocol.Augmented([columns_item()] * 6, seed, epoch)
        return torch.stack([seen[i]["image"] for i in range(len(seen))])

    assert torch.equal(images(1, 2), images(1, 2))
    assert not torch.equal(images(1, 2), images(1, 3))
    assert not torch.equal(images(1, 2), images(2, 2))
    assert images(1, 2).unique(dim=0).shape[0] > 1


# ------------------------------------------------------------------------------------ losses


def test_segmentation_loss_ignores_pixels_without_a_class():
    logits = torch.zeros(1, 4, 1, 3)
    logits[0, 2, 0, 1] = math.log(3)
    labels = torch.tensor([[[0, 2, -1]]])
    # The pixels have probability 1/4 and 3/6.
    expected = (math.log(4) + math.log(2)) / 2
    assert dense.segmentation_loss(logits, labels).item() == pytest.approx(expected)


def test_depth_loss_counts_known_pixels():
    predicted = torch.tensor([[[[1.0, 2.0, 7.0]]]])
    truth = torch.tensor([[[[2.0, 5.0, 0.0]]]])
    assert dense.depth_loss(predicted, truth).item() == pytest.approx((1 + 3) / 2)


def test_normal_loss_is_one_minus_cosine_of_known_pixels():
    predicted = torch.tensor([[3.0, 0, 0], [1, 1, 0], [0, 0, 1]]).T.reshape(1, 3, 1, 3)
    truth = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 0]]).T.reshape(1, 3, 1, 3)
    expected = (0 + (1 - math.sqrt(0.5))) / 2
    assert dense.normal_loss(predicted, truth).item() == pytest.approx(expected)


def test_normals_whose_components_sum_to_zero_are_known():
    truth = torch.tensor([0.5, -0.5, 0.0]).reshape(1, 3, 1, 1)
    assert dense.valid(truth).all()
    assert not dense.valid(torch.zeros_like(truth)).any()


@pytest.mark.parametrize("task", ["segmentation", "depth", "normal"])
def test_losses_without_a_known_pixel_are_zero(task):
    channels = {"segmentation": 5, "depth": 1, "normal": 3}[task]
    predicted = torch.randn(2, channels, 4, 4, requires_grad=True)
    truth = torch.zeros(2, channels, 4, 4)
    if task == "segmentation":
        truth = torch.full((2, 4, 4), -1)
    loss = dense.LOSSES[task](predicted, truth)
    loss.backward()
    assert loss == 0
    assert torch.equal(predicted.grad, torch.zeros_like(predicted))


# ----------------------------------------------------------------------------------- metrics


def test_mean_iou_by_hand():
    truth = torch.tensor([[[0, 0, 0], [3, 3, -1]]])
    predicted = torch.tensor([[[0, 0, 3], [3, 3, 0]]])
    logits = torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).float()
    score = dense.new_score("segmentation", 4, "exact")
    for half in (slice(0, 1), slice(1, 2)):  # in two batches
        score.update(logits[:, :, half], truth[:, half])
    # Class 0: 2 of 3; class 3: 2 of 3; classes 1 and 2 occur nowhere. 4 of 5 pixels are right.
    assert score.result() == pytest.approx({"mIoU": 100 * (2 / 3 + 2 / 3) / 2, "PixAcc": 80})


def test_a_class_that_is_only_predicted_counts_as_wrong():
    score = dense.new_score("segmentation", 3, "exact")
    score.update(torch.eye(3)[None, :, :2, None], torch.tensor([[[0], [0]]]))
    assert score.result() == pytest.approx({"mIoU": 25, "PixAcc": 50})


def test_depth_errors_pool_pixels_or_batches():
    batches = [([1.0, 3.0, 9.0], [2.0, 4.0, 0.0]), ([7.0, 0.0, 0.0], [4.0, 0.0, 0.0])]
    results = {}
    for pooling in ("exact", "reference"):
        score = dense.new_score("depth", 13, pooling)
        for predicted, truth in batches:
            score.update(*(torch.tensor(x).view(1, 1, 1, 3) for x in (predicted, truth)))
        results[pooling] = score.result()
    assert results["exact"] == pytest.approx({"AbsErr": 5 / 3, "RelErr": (0.5 + 0.25 + 0.75) / 3})
    assert results["reference"] == pytest.approx({"AbsErr": (1 + 3) / 2, "RelErr": 0.5625})


def at_angles(degrees):
    """Return normals that lie at the given angles from (1, 0, 0), not of length 1."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return 3 * torch.stack([angles.cos(), angles.sin(), 0 * angles]).view(1, 3, 1, -1)


def test_angles_pool_pixels_or_batches():
    batches = [[5.0, 10.0, 20.0, 60.0], [25.0]]  # a ragged last batch
    results = {}
    for pooling in ("exact", "reference"):
        score = dense.new_score("normal", 13, pooling)
        for angles in batches:
            truth = torch.zeros(1, 3, 1, len(angles) + 1)
            truth[:, 0, :, :-1] = 1  # the last pixel is unknown
            score.update(at_angles([*angles, 90.0]), truth)
        results[pooling] = score.result()
    exact = {"mean": 24, "median": 20, "<11.25": 40, "<22.5": 60, "<30": 80}
    assert results["exact"] == pytest.approx(exact, rel=1e-5)
    # Means of (23.75, 25), medians of (15, 25), shares of (2/4, 0), (3/4, 0) and (3/4, 1).
    reference = {"mean": 24.375, "median": 20, "<11.25": 25, "<22.5": 37.5, "<30": 87.5}
    assert results["reference"] == pytest.approx(reference, rel=1e-5)


def test_exact_median_is_not_a_mean_of_medians():
    exact, reference = (dense.new_score("normal", 13, p) for p in ("exact", "reference"))
    for angles in ([1.0, 2.0, 3.0], [50.0]):
        truth = torch.zeros(1, 3, 1, len(angles))
        truth[:, 0] = 1
        exact.update(at_angles(angles), truth)
        reference.update(at_angles(angles), truth)
    assert exact.result()["median"] == pytest.approx(2.5, rel=1e-3)
    assert reference.result()["median"] == pytest.approx(26, rel=1e-3)


def test_report_averages_the_last_ten_epochs():
    class Short(nyuv2.NYUv2):
        def read(self):
            return {}

    settings = command.settings(Short, "", ["--data", "."])
    history = [{"test": {"mIoU": float(epoch)}} for epoch in range(25)]
    metrics, rule = Short(settings).report(history)
    assert metrics == {"mIoU": 19.5}
    assert "10" in rule
    assert Short(settings).report(history[:2])[0] == {"mIoU": 0.5}


def test_published_base_has_no_drop_against_itself():
    class Empty(cityscapes.CityScapes):
        def read(self):
            return {}

    made = Empty(command.settings(Empty, "", ["--data", "."]))
    assert made.delta_m(made.published) == pytest.approx(0)
    # One percent less of what should be high, one percent more of what should be low.
    worse = {n: v * (0.99 if made.higher[n] else 1.01) for n, v in made.published.items()}
    assert made.delta_m(worse) == pytest.approx(1)
    # The published row of GO4Align, and its drop.
    row = {"mIoU": 72.63, "PixAcc": 93.03, "AbsErr": 0.0164, "RelErr": 27.58}
    assert made.delta_m(row) == pytest.approx(8.11, abs=0.2)


# ------------------------------------------------------------------------------------ networks


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_size_of_the_published_segnet():
    """MTAN's paper gives 1.77 times the parameters of one SegNet for three tasks."""
    with torch.device("meta"):
        three = segnet_mtan.SegNetMTAN({"segmentation": 13, "depth": 1, "normal": 3})
        two = segnet_mtan.SegNetMTAN({"segmentation": 7, "depth": 1})
    trunk = (three.encoder_first, three.encoder_rest, three.decoder_first, three.decoder_rest)
    assert round(count(three) / sum(map(count, trunk)), 2) == 1.77
    # Counted in the networks of nash-mtl and FAMO.
    assert count(three) == 44_229_073
    assert count(two) == 41_206_984


def test_segnet_predicts_maps_and_shares_all_but_masks_and_heads():
    outputs = {"segmentation": 5, "depth": 1, "normal": 3}
    net = segnet_mtan.SegNetMTAN(outputs, width=2)
    maps = net(torch.rand(2, 3, 32, 64))
    assert {t: tuple(x.shape) for t, x in maps.items()} == {
        t: (2, n, 32, 64) for t, n in outputs.items()
    }
    maps["depth"].square().sum().backward()
    touched = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    for task in ("segmentation", "normal"):
        assert not any(name.startswith(f"branches.{task}.") for name in touched)
    # A bias in front of a batch norm has no effect; every weight has one.
    for name, _ in net.named_parameters():
        if name.endswith("0.weight") and not name.startswith(("branches.seg", "branches.nor")):
            assert name in touched, name
    shared = {id(p) for p in net.shared_parameters()}
    heads = {n for n, p in net.named_parameters() if id(p) not in shared}
    of_a_head = [f"head.{i}.{what}" for i in (0, 1) for what in ("weight", "bias")]
    assert heads == {f"branches.{task}.{name}" for task in outputs for name in of_a_head}


def test_face_encoder():
    celeba_net = part("celeba_net")
    with torch.device("meta"):
        assert count(celeba_net.FaceEncoder(range(40))) == 5_197_160  # as in FAMO's code
    net = celeba_net.FaceEncoder(["Bald", "Young"], width=2)
    logits, features = net(torch.rand(3, 3, 64, 64))
    assert {task: x.shape for task, x in logits.items()} == {"Bald": (3,), "Young": (3,)}
    assert features.shape == (3, 16)
    assert count(net) - sum(p.numel() for p in net.shared_parameters()) == 2 * 17


@pytest.fixture
def qm9():
    return script("qm9")


def molecules(*sizes):
    from torch_geometric.data import Batch, Data

    def one(n):
        edges = (~torch.eye(n, dtype=torch.bool)).nonzero().T
        return Data(x=torch.rand(n, 11), edge_index=edges, edge_attr=torch.rand(len(edges.T), 5))

    return Batch.from_data_list([one(n) for n in sizes])


def test_message_passing(qm9):
    net = qm9.MessagePassing(["mu", "Cv"], width=8)
    batch = molecules(4, 1, 3)  # one of them a single atom
    values, features = net(batch)
    assert {task: x.shape for task, x in values.items()} == {"mu": (3,), "Cv": (3,)}
    assert features.shape == (3, 8)
    assert count(net) - sum(p.numel() for p in net.shared_parameters()) == 2 * 9
    # A molecule's prediction does not depend on its batch.
    alone, _ = net(type(batch).from_data_list([batch[2]]))
    assert torch.allclose(alone["mu"], values["mu"][2:], atol=1e-6)
    # lin0, edge network, root, gated recurrent unit, Set2Set, lin1, heads at width 64
    sizes = [12 * 64, 6 * 128 + 129 * 64 * 64, 65 * 64, 2 * 65 * 192, 256 * (128 + 64 + 2)]
    assert count(qm9.MessagePassing(range(11))) == sum(sizes) + 129 * 64 + 11 * 65


def test_edge_convolution_is_nnconv(qm9):
    from torch_geometric.nn import NNConv

    ours = part("mpnn").EdgeConvolution(6, 5, hidden=7)
    with torch.no_grad():
        ours.root.bias.normal_()
    theirs = NNConv(6, 6, ours.edges, aggr="mean")
    theirs.edges = theirs.nn = ours.edges
    theirs.lin.weight, theirs.bias = ours.root.weight, ours.root.bias
    batch = molecules(3, 1, 4)
    x = torch.randn(batch.num_nodes, 6)
    expected = theirs(x, batch.edge_index, batch.edge_attr)
    found = ours(x, batch.edge_index, ours.matrices(batch.edge_attr))
    assert torch.allclose(found, expected, atol=1e-6)


def test_written_out_cells_are_torchs(qm9):
    from torch_geometric.nn import Set2Set

    mpnn = part("mpnn")
    ours, theirs = mpnn.GatedUpdate(3, 4), torch.nn.GRUCell(3, 4)
    theirs.load_state_dict(ours.state_dict())
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    assert torch.allclose(ours(x, state), theirs(x, state), atol=1e-6)

    ours, theirs = mpnn.ReadOut(4), Set2Set(4, processing_steps=3)
    weights = {f"{name}_l0": tensor for name, tensor in ours.memory.state_dict().items()}
    theirs.lstm.load_state_dict(weights)
    atoms, molecule = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 2, 2])
    assert torch.allclose(ours(atoms, molecule, 3), theirs(atoms, molecule), atol=1e-6)


# ---------------------------------------------------------------------------- CelebA's reader


@pytest.fixture
def faces(tmp_path):
    script("celeba")
    return write_faces(tmp_path)


def test_faces_are_read_in_both_layouts(faces):
    celeba_data = part("celeba_data")
    splits = {name: celeba_data.Faces(faces, name) for name in ("train", "val", "test")}
    assert [len(split) for split in splits.values()] == [6, 3, 3]
    item = splits["val"][1]
    assert splits["val"].names[1] == "000008.jpg"
    assert item["image"].shape == (3, 64, 64)
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    line = (faces / "list_attr_celeba.txt").read_text().splitlines()[2 + 7].split()
    assert item["attributes"].tolist() == [float(sign == "1") for sign in line[1:]]
    assert len(celeba_data.Faces(faces, "train", limit=2)) == 2
    for name, (folder, _) in celeba_data.PLACES.items():
        (faces / folder).mkdir()
        (faces / name).rename(faces / folder / name)
    assert torch.equal(celeba_data.Faces(faces, "val")[1]["image"], item["image"])


def edit(file, old, new):
    def change(root):
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "list_eval_partition.txt").unlink(), "list_eval_part.*mmlab"),
        (lambda root: (root / "list_attr_celeba.txt").unlink(), "list_attr_celeba.*mmlab"),
        (lambda root: (root / "img_align_celeba").rename(root / "x"), "img_align_celeba.*mmlab"),
        (lambda root: (root / "img_align_celeba/000002.jpg").unlink(), r"000002\.jpg is missing"),
        (
            lambda root: (root / "img_align_celeba/000002.jpg").write_bytes(b"no"),
            r"000002\.jpg cannot be read as a picture",
        ),
        (edit("list_attr_celeba.txt", "Bald ", ""), "line 2: expected the names"),
        (edit("list_attr_celeba.txt", "000002.jpg ", "000002.jpg 1 "), "line 4: expected a file"),
        (edit("list_attr_celeba.txt", "000002.jpg ", "000002.jpg 0 1"), "line 4: expected a file"),
        (edit("list_attr_celeba.txt", "12", "13"), "announces '13' pictures.* lists 12"),
        (edit("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 3"), "line 2: .* 0, 1 or 2"),
        (edit("list_eval_partition.txt", "000002", "200002"), r"000002\.jpg is in one of"),
    ],
)
def test_bad_faces_are_named(faces, damage, message):
    damage(faces)
    with pytest.raises(ProtocolError, match=message):
        part("celeba_data").Faces(faces, "train")[1]


def test_f1_by_hand(faces):
    score = part("celeba_data").F1Score(("a", "b", "c"))
    logits = {"a": [1.0, 2.0, -1.0], "b": [-1.0, -1.0, -1.0], "c": [1.0, -1.0, -1.0]}
    truths = {"a": [1.0, 0.0, 1.0], "b": [0.0, 0.0, 0.0], "c": [1.0, 1.0, 1.0]}
    for rows in (slice(0, 2), slice(2, 3)):
        score.update(*({t: torch.tensor(v[rows]) for t, v in x.items()} for x in (logits, truths)))
    # a: one right, one false alarm, one miss; b: nobody has it; c: precision 1, recall 1/3
    assert score.result() == pytest.approx({"a": 50, "b": 0, "c": 50})


# ------------------------------------------------------------------------------- QM9's reader


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_molecules_are_complete_graphs_with_standardised_targets(qm9, data):
    qm9_data = part("qm9_data")
    source = qm9_data.open_qm9(data("qm9"))
    assert len(source) == len(SMILES) - 1  # the first one is on the list to skip
    tasks = tuple(qm9_data.COLUMNS)
    splits, unit = qm9_data.split(source, tasks, seed=3, held_out=3, limit=None)
    assert {name: len(split) for name, split in splits.items()} == {"test": 3, "val": 3, "train": 7}
    indices = torch.cat([split.indices for split in splits.values()])
    assert indices.sort().values.tolist() == list(range(13))
    train = torch.cat([item.y for item in splits["train"]])
    assert train.shape == (7, 11)
    assert torch.allclose(train.mean(0), torch.zeros(11), atol=1e-5)
    assert torch.allclose(train.std(0), torch.ones(11), atol=1e-5)
    # Columns 2, 3 and 5 to 9 of the eleven are energies in eV, reported in meV.
    raw = source._data.y[splits["train"].indices][:, [0, 1, 2, 3, 5, 6, 12, 13, 14, 15, 11]].std(0)
    reported = torch.ones(11)
    reported[[2, 3, 5, 6, 7, 8, 9]] = 1000
    assert torch.allclose(unit / raw, reported)

    place = int(splits["val"].indices[0])
    whole, item = source[place], splits["val"][0]
    n = whole.num_nodes
    assert item.edge_index.shape == (2, n * (n - 1))
    distances = torch.cdist(whole.pos, whole.pos)[item.edge_index[0], item.edge_index[1]]
    assert torch.allclose(item.edge_attr[:, 4], distances, atol=1e-4)
    assert item.edge_attr[:, :4].sum() == whole.edge_attr.sum()
    pairs = list(map(tuple, item.edge_index.T.tolist()))
    for pair, bond in zip(whole.edge_index.T.tolist(), whole.edge_attr, strict=True):
        assert torch.equal(item.edge_attr[pairs.index(tuple(pair)), :4], bond)

    again, _ = qm9_data.split(source, tasks, seed=3, held_out=3, limit=2)
    assert torch.equal(again["test"].indices, splits["test"].indices[:2])
    other, _ = qm9_data.split(source, tasks, seed=4, held_out=3, limit=2)
    assert not torch.equal(other["test"].indices, again["test"].indices)
    with pytest.raises(ProtocolError, match=r"13 molecules.*twice 10000.*--held-out"):
        qm9_data.split(source, tasks, seed=0, held_out=10_000, limit=None)
    with pytest.raises(ProtocolError, match="one training molecule"):
        qm9_data.split(source, tasks, seed=0, held_out=3, limit=1)
    source._data.y[:, 1] = 5
    with pytest.raises(ProtocolError, match="alpha has the same value for all 7 training"):
        qm9_data.split(source, tasks, seed=0, held_out=3, limit=None)


def test_missing_molecules_are_not_downloaded(qm9, tmp_path):
    with pytest.raises(ProtocolError, match="nowhere is missing"):
        qm9.main(["--data", str(tmp_path / "nowhere")])
    with pytest.raises(ProtocolError, match=r"raw/gdb9\.sdf is missing.*uncharacterized\.txt"):
        qm9.main(["--data", str(tmp_path)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_processed_molecules_need_no_raw_files(qm9, data, tmp_path):
    qm9_data = part("qm9_data")
    whole = qm9_data.open_qm9(data("qm9"))
    (tmp_path / "processed").mkdir()
    processed = tmp_path / "processed" / "data_v3.pt"
    processed.write_bytes((data("qm9") / "processed" / "data_v3.pt").read_bytes())
    assert len(qm9_data.open_qm9(tmp_path)) == len(whole)
    processed.write_bytes(b"no")
    with pytest.raises(ProtocolError, match=r"cannot read QM9.*Delete processed/"):
        qm9_data.open_qm9(tmp_path)
    data_part, slices = whole._data.to_dict(), whole.slices
    torch.save(({**data_part, "y": data_part["y"][:, :12]}, slices, type(whole[0])), processed)
    with pytest.raises(ProtocolError, match=r"19 targets.*\[11, 4, 12, 3\]"):
        qm9_data.open_qm9(tmp_path)


def test_absolute_errors_by_hand(qm9):
    score = qm9.MeanAbsoluteError(("mu", "homo"), torch.tensor([2.0, 1000.0]))
    for mu, homo in (([1.0, -2.0], [0.5, 0.0]), ([0.0], [0.1])):
        predicted = {"mu": torch.tensor(mu), "homo": torch.tensor(homo)}
        score.update(predicted, {task: torch.zeros_like(x) for task, x in predicted.items()})
    assert score.result() == pytest.approx({"mu": 2.0, "homo": 200.0})


# ------------------------------------------------------------------------------------ training

NAMES = ("nyuv2", "cityscapes", "celeba", "qm9")
METHODS = ("go4align-published", "ls", "famo", "cagrad")


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_script_trains(name, method, data, tmp_path, capsys):
    if method in ("famo", "cagrad"):
        pytest.importorskip("torchjd")
    module = script(name)
    out = tmp_path / "run"
    result = module.main(arguments(name, data, out, method, "--epochs", 2))
    benchmark = next(c for c in vars(module).values() if getattr(c, "name", None) == name)
    names = [metric for metrics in benchmark.metrics.values() for metric in metrics]
    assert list(result["metrics"]) == names
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert (result["delta_m"] is None) == (name == "celeba")
    assert (out / "summary.json").is_file()
    shown = capsys.readouterr()
    assert "epoch 2/2" in shown.out
    if name == "nyuv2":
        assert "train has 4 items, the published one 795" in shown.err
    found = records(out)
    losses = {record["name"] for record in found if record["name"].startswith("loss/")}
    assert losses == {f"loss/{task}" for task in benchmark.metrics}
    steps = [record["step"] for record in found if record["name"] == min(losses)]
    assert steps == list(range(len(steps)))
    if method == "go4align-published":
        check_groups(found, benchmark.n_groups)


def check_groups(found, n_groups):
    """The tasks of a group have one weight, and there are as many groups as asked for."""
    for step in {record["step"] for record in found if record["name"].startswith("group/")}:
        weights, groups = (
            [r["value"] for r in found if r["step"] == step and r["name"].startswith(kind)]
            for kind in ("weight/", "group/")
        )
        assert len(set(groups)) == n_groups
        for group in set(groups):
            members = {w for w, g in zip(weights, groups, strict=True) if g == group}
            assert max(members) == pytest.approx(min(members))
    assert any(record["name"].startswith("group/") for record in found)


def test_every_epoch_has_an_order_of_its_own(data, tmp_path, monkeypatch):
    main = script("celeba").main
    loader, orders = protocol.Protocol.loader, {}

    def spy(self, items, order=None):
        if order is not None:
            orders.setdefault(self.settings.seed, []).append(order)
        return loader(self, items, order)

    monkeypatch.setattr(protocol.Protocol, "loader", spy)
    for seed in (0, 1):
        more = ["--task", "Bald", "--epochs", 2, "--seed", seed]
        main(arguments("celeba", data, tmp_path / str(seed), "stl", *more))
    found = [*orders[0], *orders[1]]
    assert all(sorted(order) == list(range(6)) for order in found)
    assert len(set(map(tuple, found))) == 4


@pytest.mark.usefixtures("report")
def test_report_is_written(data, tmp_path, capsys):
    out = tmp_path / "run"
    nyuv2.main(arguments("nyuv2", data, out, "go4align-published", "--epochs", 1))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("go4align-published", "mIoU", "segmentation", "<svg"))
    assert str(out / "report.html") in capsys.readouterr().out


def test_training_lowers_the_loss(data, tmp_path):
    more = ["--task", "depth", "--epochs", 4, "--lr", 0.03]
    cityscapes.main(arguments("cityscapes", data, tmp_path / "run", "stl", *more))
    values = [r["value"] for r in records(tmp_path / "run") if r["name"] == "loss/depth"]
    assert sum(values[-4:]) < 0.8 * sum(values[:4])


def finish(module, argv):
    module.main(argv)
    folder = Path(argv[argv.index("--out") + 1])
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    del state["seconds"]  # the only thing that differs
    return state


def assert_same(a, b, path=""):
    """Compare nested containers bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("nyuv2", "go4align-published"),
        ("cityscapes", "stl"),
        ("celeba", "go4align"),
        ("celeba", "rlw"),
        ("celeba", "famo"),
        ("celeba", "uw"),
        ("celeba", "dwa"),
        ("qm9", "pcgrad"),
        ("qm9", "go4align-published"),
    ],
)
def test_resumed_run_ends_with_the_same_bits(name, method, data, tmp_path, monkeypatch):
    if method not in ("go4align", "go4align-published", "stl"):
        pytest.importorskip("torchjd")
    module = script(name)
    epochs = 3 if method == "dwa" else 2  # DWA's weights come from two epochs before
    more = ["--epochs", epochs, *(["--task", "depth"] if method == "stl" else [])]
    whole = finish(module, arguments(name, data, tmp_path / "whole", method, *more))

    # What TorchJD leaves out of its states, or there would be nothing to resume.
    assert (whole["memory"]["adam"] is not None) == (method == "famo")
    assert len(whole["memory"]["means"] or []) == (2 if method == "dwa" else 0)

    # The second epoch breaks off at its second step.
    argv = arguments(name, data, tmp_path / "parts", method, *more)
    losses, calls = protocol.Protocol.losses, []

    def interrupted(self, network, batch):
        calls.append(torch.is_grad_enabled())
        if sum(calls) == whole["step"] // epochs + 2:
            raise KeyboardInterrupt
        return losses(self, network, batch)

    with monkeypatch.context() as patch:
        patch.setattr(protocol.Protocol, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module.main(argv)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["epoch"] == 1
    torch.manual_seed(99)  # the resumed process starts from somewhere else
    resumed = finish(module, [*argv, "--resume"])
    assert_same(whole, resumed)
    numbers = [
        [(r["step"], r["name"], r["value"]) for r in records(tmp_path / run)]
        for run in ("whole", "parts")
    ]
    assert numbers[0] == numbers[1]


def test_resuming_refuses_other_settings_and_empty_folders(data, tmp_path):
    main = script("celeba").main
    argv = arguments("celeba", data, tmp_path / "run", "stl", "--task", "Bald")
    with pytest.raises(ProtocolError, match=r"checkpoint\.pt is missing"):
        main([*argv, "--resume"])
    main([*argv, "--epochs", "1"])
    with pytest.raises(ProtocolError, match="seed = 0, now it is 5"):
        main([*argv, "--resume", "--seed", "5"])
    main([*argv, "--resume", "--epochs", "2"])  # more epochs are welcome
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] == 2


def test_checkpoint_survives_a_failed_write(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"settings": {}, "epoch": 1})

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, {"settings": {}, "epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, {})["epoch"] == 1


def test_single_task_runs_are_a_base(data, tmp_path):
    for task in ("segmentation", "depth"):
        out = tmp_path / "stl" / task
        cityscapes.main(arguments("cityscapes", data, out, "stl", "--task", task, "--epochs", 1))
        base = [json.loads(p.read_text()) for p in (tmp_path / "stl").rglob("summary.json")]
        assert len(base) == (1 if task == "segmentation" else 2)
        argv = arguments("cityscapes", data, tmp_path / "ls", "ls", "--epochs", 1)
        argv += ["--base", str(tmp_path / "stl")]
        if task == "segmentation":
            with pytest.raises(ProtocolError, match=r"1 finished .* none with AbsErr, RelErr"):
                cityscapes.main(argv)
    result = cityscapes.main(argv)
    alone = part("base").read_base(tmp_path / "stl", "cityscapes", result["metrics"])
    signs = {"mIoU": -1, "PixAcc": -1, "AbsErr": 1, "RelErr": 1}
    found = result["metrics"]
    drops = [signs[name] * (found[name] - alone[name]) / alone[name] for name in signs]
    assert result["delta_m"] == pytest.approx(25 * sum(drops))


# -------------------------------------------------------------------------------- command line


def test_defaults_are_the_published_ones():
    found = {
        module.__name__: command.settings(cls, "", ["--data", "."])
        for module, cls in ((nyuv2, nyuv2.NYUv2), (cityscapes, cityscapes.CityScapes))
    }
    numbers = [(s.epochs, s.batch, s.lr, s.width, s.pooling) for s in found.values()]
    assert numbers == [(200, 2, 1e-4, 64, "exact"), (200, 8, 1e-4, 64, "exact")]
    assert found["published_nyuv2"].out == Path("runs/nyuv2/go4align-published-seed0")


def test_defaults_of_faces_and_molecules(qm9):
    celeba = script("celeba")
    faces = command.settings(celeba.CelebA, "", ["--data", "."])
    assert (faces.epochs, faces.batch, faces.lr, faces.width) == (15, 256, 1e-3, 64)
    molecules = command.settings(qm9.QM9, "", ["--data", "."])
    assert (molecules.epochs, molecules.batch, molecules.lr) == (300, 120, 1e-3)
    assert molecules.held_out == 10_000
    assert [c.n_groups for c in (nyuv2.NYUv2, cityscapes.CityScapes, celeba.CelebA, qm9.QM9)] == [
        2,
        2,
        5,
        5,
    ]


def test_schedules():
    weight = torch.nn.Parameter(torch.zeros(1))

    def rates(cls, epochs, values=()):
        class Empty(cls):
            def read(self):
                return {}

        optimizer = torch.optim.Adam([weight], lr=1e-3)
        schedule = Empty(command.settings(cls, "", ["--data", "."])).scheduler(optimizer)
        optimizer.step()
        for epoch in range(epochs):
            schedule.step(*values[epoch : epoch + 1])
        return schedule.get_last_lr()[0]

    assert [rates(nyuv2.NYUv2, n) for n in (99, 100, 199, 200)] == [1e-3, 5e-4, 5e-4, 2.5e-4]
    assert rates(script("celeba").CelebA, 15) == 1e-3
    qm9 = script("qm9").QM9
    assert rates(qm9, 6, [1.0] * 6) == 1e-3
    assert rates(qm9, 7, [1.0] * 7) == pytest.approx(0.7e-3)
    assert rates(qm9, 300, [1.0] * 300) == 1e-5


def test_options_of_a_method():
    argv = ["--data", ".", "--option", "n_groups=3", "--option", "space=log"]
    assert command.settings(nyuv2.NYUv2, "", argv).options == {"n_groups": 3, "space": "log"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--option", "n_groups"], "expected key=value"),
        (["--epochs", "0"], "at least 1"),
        (["--method", "magic"], "invalid choice"),
        ([], "--data"),
    ],
)
def test_bad_command_lines(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        nyuv2.main([*(["--data", "."] if argv else []), *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "stl"], "give --task exactly with --method stl"),
        (["--task", "depth"], "give --task exactly with --method stl"),
        (["--method", "stl", "--task", "pose"], "nyuv2 has the tasks segmentation, depth, normal"),
    ],
)
def test_tasks_belong_to_single_task_training(argv, message):
    with pytest.raises(ProtocolError, match=message):
        nyuv2.main(["--data", ".", *argv])


def test_script_runs_by_its_path_and_ends_in_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "nyuv2.py"), "--data", "nowhere"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere/train/image is missing. Download nyuv2.zip")
    assert not list(tmp_path.iterdir())
