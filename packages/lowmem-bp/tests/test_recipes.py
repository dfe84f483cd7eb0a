"""The loaders of examples/lowmem-bp on tiny files in the true formats, sound and broken."""

import importlib.util
import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "lowmem-bp"
if not EXAMPLES.is_dir():
    pytest.skip("the examples lie in the repository, not in the package", allow_module_level=True)


def script(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{Path(name).stem}", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


images, glue, instructions = (script(f"parts/{x}.py") for x in ("images", "glue", "instructions"))


# --- pictures ---------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the NumPy of 2009 wrote: byte strings and numpy.core."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text):
        data = text if isinstance(text, bytes) else text.encode("latin-1")
        self.write(b"T" + struct.pack("<i", len(data)) + data)

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{obj.__name__}\n".encode())

    dispatch[bytes] = dispatch[str] = save_string


def write_cifar(path, labels, data, key="labels"):
    content = {"batch_label": "batch 1 of 1", key: labels, "data": data, "filenames": ["a.png"]}
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    path.write_bytes(buffer.getvalue())


def cifar_rows(count):
    return np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)


def test_cifar10_reads_what_python_2_wrote(tmp_path):
    first, second, held_out = (cifar_rows(n) for n in (2, 3, 4))
    write_cifar(tmp_path / "data_batch_1", [7, 0], first)
    write_cifar(tmp_path / "data_batch_2", [1, 2, 3], second)
    write_cifar(tmp_path / "test_batch", [4, 5, 6, 9], held_out)
    train, test = images.load(tmp_path)
    assert [label for _, label in train] == [7, 0, 1, 2, 3]
    assert [label for _, label in test] == [4, 5, 6, 9]
    # The published layout, by hand: 1024 red bytes row by row, then green, then blue.
    picture = train[0][0]
    assert picture.shape == (32, 32, 3)
    assert picture[0, 1].tolist() == [first[0, 1], first[0, 1025], first[0, 2049]]
    assert picture[31, 0].tolist() == [first[0, 992], first[0, 2016], first[0, 3040]]


def test_cifar100_takes_the_fine_labels(tmp_path):
    for name in ("train", "test"):
        data = {b"coarse_labels": [1, 1], b"fine_labels": [98, 3], b"data": cifar_rows(2)}
        (tmp_path / name).write_bytes(pickle.dumps(data, protocol=3))
    train, test = images.load(tmp_path)
    assert [label for _, label in train] == [label for _, label in test] == [98, 3]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Attack(tmp_path / "run"), protocol=2))
    with pytest.raises(ValueError, match="data_batch_1 is not a CIFAR batch: it asks for"):
        images.load(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["load", "lib.format.open_memmap"])
def test_other_functions_of_numpy_are_refused(tmp_path, name):
    (tmp_path / "data_batch_1").write_bytes(f"cnumpy\n{name}\n.".encode())
    with pytest.raises(ValueError, match=f"numpy.{name}, which was not run"):
        images.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {b"data": cifar_rows(2)},
        {b"labels": [0, 1]},
        {b"labels": [0, 1, 2], b"data": cifar_rows(2)},
        {b"labels": [0, 1], b"data": cifar_rows(2)[:, :-1]},
    ],
    ids=["no-mapping", "no-labels", "no-data", "too-few-rows", "short-rows"],
)
def test_a_wrong_cifar_batch_says_what_is_expected(tmp_path, content):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(ValueError, match="data_batch_1: expected labels, and as many rows"):
        images.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG not a pickle"], ids=["empty", "no-pickle"])
def test_a_file_that_is_no_pickle_is_named(tmp_path, content):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_1 is not a CIFAR batch"):
        images.load(tmp_path)


def write_folders(folder, classes=("dog", "cat")):
    image = pytest.importorskip("PIL.Image", reason="Pillow reads the pictures")
    for part in ("train", "val"):
        for name in classes:
            place = folder / part / name
            place.mkdir(parents=True)
            image.new("RGB", (5, 4), (255, 0, 0)).save(place / "red.png")
            image.new("L", (6, 6), 255).save(place / "white.JPEG")
            (place / "notes.txt").write_text("not a picture", encoding="utf-8")


def test_folders_number_the_classes_by_name(tmp_path):
    write_folders(tmp_path)
    train, held_out = images.load(tmp_path)
    assert [(path.parent.name, path.name, label) for path, label in train] == [
        ("cat", "red.png", 0),
        ("cat", "white.JPEG", 0),
        ("dog", "red.png", 1),
        ("dog", "white.JPEG", 1),
    ]
    assert [label for _, label in held_out] == [0, 0, 1, 1]


def test_folders_refuse_a_class_that_only_val_has(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "cow")
    with pytest.raises(ValueError, match=r"classes \['cow'\] are not in train/, .*'cat', 'dog'"):
        images.load(tmp_path)


def test_folders_without_val_or_pictures_are_named(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="train: expected a subfolder per class with pictures"):
        images.load(tmp_path)


def test_a_folder_without_data_lists_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match=r"train/ and val/ .*data_batch_1.*CIFAR-100"):
        images.load(tmp_path)


def test_pictures_of_both_kinds_become_the_same_batch(tmp_path):
    for name in ("transformers", "peft", "PIL"):
        pytest.importorskip(name)
    collate = script("02_vit_images.py").collate
    write_folders(tmp_path)
    red = np.zeros((1, 3072), dtype=np.uint8)
    red[:, :1024] = 255
    write_cifar(tmp_path / "data_batch_1", [1], red)
    (path, _), (white, _), *_ = images.load(tmp_path)[0]
    batch = collate([(path, 3), *images.cifar(tmp_path / "data_batch_1"), (white, 0)], size=16)
    assert batch["labels"].tolist() == [3, 1, 0]
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    for picture, colour in zip(batch["pixel_values"], [(1, -1, -1)] * 2 + [(1, 1, 1)], strict=True):
        for channel, value in zip(picture, colour, strict=True):
            assert (channel == value).all()


# --- instructions -----------------------------------------------------------------------------

ROWS = [
    {"instruction": "Name the opposite.", "input": "good", "output": "It is {bad}."},
    {"instruction": "Name a day.", "input": "", "output": "Monday"},
    {"instruction": "Name a month.", "output": "May"},
]


def write_json(folder, content):
    path = folder / "alpaca.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer():
    hf = pytest.importorskip("transformers")
    texts = [instructions.prompt("Name the opposite.", "good"), json.dumps(ROWS)]
    trained = hf.LlamaTokenizer().train_new_from_iterator(texts, 200, show_progress=False)
    trained.pad_token = trained.eos_token
    return trained


def test_prompts_are_those_of_alpaca():
    assert instructions.prompt("Say {x}.", "") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSay {x}.\n\n### Response:"
    )
    assert instructions.prompt("Add.", "1, 2") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
    )


def test_the_loss_is_on_the_answer_alone(tmp_path, tokenizer):
    examples = instructions.load(write_json(tmp_path, ROWS), tokenizer, length=512)
    assert len(examples) == 3
    for row, example in zip(ROWS, examples, strict=True):
        ids, labels = example["input_ids"], example["labels"]
        prompt = tokenizer(instructions.prompt(row["instruction"], row.get("input", "")))
        start = len(prompt["input_ids"])
        assert ids[:start] == prompt["input_ids"]
        assert labels == [-100] * start + ids[start:]
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[start:-1]) == row["output"]


def test_padding_gets_no_loss_though_it_is_the_end_token(tmp_path, tokenizer):
    hf = pytest.importorskip("transformers")
    examples = instructions.load(write_json(tmp_path, ROWS), tokenizer, length=512)
    batch = hf.DataCollatorForSeq2Seq(tokenizer)(examples)
    kept = [sum(label != -100 for label in example["labels"]) for example in examples]
    assert (batch["labels"] != -100).sum(1).tolist() == kept
    assert batch["attention_mask"].sum(1).tolist() == [len(x["input_ids"]) for x in examples]


def test_a_prompt_that_fills_the_length_is_left_out_and_counted(tmp_path, tokenizer, capsys):
    long = {"instruction": "Name a day. " * 50, "input": "", "output": "Monday"}
    path = write_json(tmp_path, [long, *ROWS])
    examples = instructions.load(path, tokenizer, length=150)
    assert len(examples) == 3
    assert "left out 1 rows" in capsys.readouterr().err
    with pytest.raises(ValueError, match="every prompt has 5 tokens or more"):
        instructions.load(path, tokenizer, length=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": ROWS}, "expected a list of objects, found"),
        ([], "expected a list of objects"),
        ([ROWS[0], {"instruction": "x", "input": ""}], "row 1: expected .* output, found"),
        ([ROWS[0], {"prompt": "x", "output": "y"}], "row 1: expected .*instruction.*'prompt'"),
        (["text"], "row 0: expected an object"),
        ([{"instruction": "x", "input": None, "output": "y"}], "row 0: expected"),
        ([{"instruction": "x", "output": 4}], "row 0: expected"),
    ],
    ids=["object", "empty", "no-output", "no-instruction", "text", "null", "number"],
)
def test_a_wrong_instruction_file_names_the_row(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        instructions.texts(write_json(tmp_path, content))
    assert "alpaca.json" in str(caught.value)


def test_json_lines_are_not_a_list(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    with pytest.raises(ValueError, match=r"alpaca.json is not one JSON list: Extra data"):
        instructions.texts(path)


# --- GLUE -------------------------------------------------------------------------------------

MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
PUBLISHED = {  # the headers and a made-up line, as the files of the benchmark have them
    "cola": ("", 'gj04\t0\t*\tThe "box sat.', ['The "box sat.'], "0"),
    "sst2": ("sentence\tlabel", "a quiet , lovely film \t1", ["a quiet , lovely film "], "1"),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t702876\t702977\tHe said " no .\tNo , he said .',
        ['He said " no .', "No , he said ."],
        "1",
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain-captions\tMSRvid\t2012test\t1\tnone\tnone\tA plane.\tA jet.\t4.200",
        ["A plane.", "A jet."],
        4.2,
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "7\t11\t12\tWhy?\tHow so?\t1",
        ["Why?", "How so?"],
        "1",
    ),
    "mnli": (
        f"{MNLI}\tlabel1\tgold_label",
        "0\t31\t31n\tgovernment\t( a )\t( b )\t(R a)\t(R b)\tA.\tB.\tneutral\tneutral",
        ["A.", "B."],
        "neutral",
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        "0\tWhen?\tIn May.\tentailment",
        ["When?", "In May."],
        "entailment",
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tIt rained.\tIt was dry.\tnot_entailment",
        ["It rained.", "It was dry."],
        "not_entailment",
    ),
}


def write_glue(path, task, lines, header=None):
    header = PUBLISHED[task][0] if header is None else header
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("task", glue.TASKS)
def test_glue_reads_the_published_columns(tmp_path, task):
    _, line, texts, label = PUBLISHED[task]
    write_glue(tmp_path / "train.tsv", task, [line])
    if task == "mnli":  # its held-out file has the labels of five people
        fields = line.split("\t")
        line = "\t".join([*fields[:-2], *["neutral"] * 5, fields[-1]])
        header = MNLI + "".join(f"\tlabel{i}" for i in range(1, 6)) + "\tgold_label"
        write_glue(tmp_path / "dev_matched.tsv", task, [line], header)
    else:
        write_glue(tmp_path / "dev.tsv", task, [line])
    train, held_out, classes = glue.load(tmp_path, task)
    number = label if task == "stsb" else 0
    assert train == held_out == [(texts, number)]
    assert classes == ([] if task == "stsb" else [label])


def test_glue_numbers_labels_in_order(tmp_path):
    lines = ["0\ta\tb\tnot_entailment", "1\tc\td\tentailment"]
    for name in ("train.tsv", "dev.tsv"):
        write_glue(tmp_path / name, "rte", lines)
    train, _, classes = glue.load(tmp_path, "rte")
    assert classes == ["entailment", "not_entailment"]
    assert [label for _, label in train] == [1, 0]


def test_glue_reads_a_byte_order_mark_and_windows_lines(tmp_path):
    content = "\ufeffsentence\tlabel\r\ngood\t1\r\nbad\t0\r\n"
    (tmp_path / "train.tsv").write_bytes(content.encode("utf-8"))
    assert glue.read(tmp_path / "train.tsv", "sst2") == [["good", "1"], ["bad", "0"]]


def test_glue_leaves_out_broken_lines_and_counts_them(tmp_path, capsys):
    good = PUBLISHED["qqp"][1]
    path = write_glue(tmp_path / "train.tsv", "qqp", [good, "8\t13\t14\tWhat", "?\tX\t0", good])
    assert glue.read(path, "qqp") == [["Why?", "How so?", "1"]] * 2
    assert "left out 2 lines without 6 columns" in capsys.readouterr().err


def test_glue_names_missing_columns(tmp_path):
    path = write_glue(tmp_path / "train.tsv", "mrpc", ["a\tb\t1"], "sentence1\tsentence2\tlabel")
    with pytest.raises(ValueError, match=r"train.tsv: no columns \['#1 String', .*'sentence1'"):
        glue.read(path, "mrpc")


def test_glue_refuses_a_file_without_any_whole_line(tmp_path):
    path = write_glue(tmp_path / "train.tsv", "cola", ["sentence\tlabel", "good\t1"])
    with pytest.raises(ValueError, match="no line has the 4 columns"):
        glue.read(path, "cola")


def test_glue_refuses_held_out_labels_that_training_lacks(tmp_path):
    write_glue(tmp_path / "train.tsv", "sst2", ["good\t1", "bad\t0"])
    write_glue(tmp_path / "dev.tsv", "sst2", ["so-so\t-1"])
    with pytest.raises(ValueError, match=r"held-out labels \['-1'\] are not among \['0', '1'\]"):
        glue.load(tmp_path, "sst2")


def test_glue_metrics_by_hand():
    found, true = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 0, 1, 1])
    # 2 true positives, 1 false positive, 1 false negative, 2 true negatives
    assert glue.score("rte", found, true) == {"accuracy": pytest.approx(4 / 6)}
    assert glue.score("qqp", found, true)["F1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    matthews = (2 * 2 - 1 * 1) / np.sqrt(3 * 3 * 3 * 3)
    assert glue.score("cola", found, true) == {"Matthews": pytest.approx(matthews)}


def test_glue_metrics_of_one_answer_for_all_are_zero():
    none, some = np.zeros(4, dtype=int), np.array([0, 1, 1, 0])
    assert glue.score("mrpc", none, some) == {"accuracy": 0.5, "F1": 0}
    assert glue.score("cola", none, some) == {"Matthews": 0}


def test_glue_correlations_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    found, true = draw.normal(size=50), draw.integers(0, 6, 50).astype(float)  # with many ties
    scores = glue.score("stsb", found, true)
    assert scores["Pearson"] == pytest.approx(stats.pearsonr(found, true).statistic)
    assert scores["Spearman"] == pytest.approx(stats.spearmanr(found, true).statistic)
