"""The alignment-handbook's mixtures done with the datasets library choose the rows that nibble chose, in its order."""
import json

import datasets
from interop import check, run

datasets.disable_progress_bars()


def rows(folder, name, split):
    lines = (folder / f"{name}-{split}.jsonl").read_text().splitlines()
    return datasets.Dataset.from_list([json.loads(line) for line in lines])


@check("data: dataset_mixture chooses the rows of the datasets library")
def mixture(folder):
    count = 0
    for case in json.loads((folder / "chosen.json").read_text())["mixtures"]:
        spec, parts = case["mixture"], []
        for entry in spec["datasets"]:
            part = rows(folder, entry["id"], entry["split"]).select_columns(entry["columns"])
            part = part.shuffle(seed=spec["seed"])
            parts.append(part.select(range(int(len(part) * entry["weight"]))))
        mixed = datasets.concatenate_datasets(parts).shuffle(seed=spec["seed"])
        train, test = mixed, None
        if "test_split_size" in spec:
            divided = mixed.train_test_split(test_size=spec["test_split_size"], seed=spec["seed"])
            train, test = divided["train"], divided["test"]["text"]
        assert list(train["text"]) == case["train"], spec
        assert (test and list(test)) == case["test"], spec
        count += len(mixed)
    return f"{count} rows"


@check("data: dataset_mixer chooses the rows of the datasets library")
def mixer(folder):
    count = 0
    for case in json.loads((folder / "chosen.json").read_text())["mixers"]:
        train, test = [], []
        for name, share in case["dataset_mixer"].items():
            whole = rows(folder, name, "train").select_columns(["text"])
            train.append(whole.select(range(int(share * len(whole)))))
            test.append(rows(folder, name, "test").select_columns(["text"]))
        for key, parts in (("train", train), ("test", test)):
            mixed = datasets.concatenate_datasets(parts).shuffle(seed=42)
            assert list(mixed["text"]) == case[key], case["dataset_mixer"]
            count += len(mixed)
    return f"{count} rows"


run()
