"""Tasks on Ray: order, deaths of actors, errors. Slow: whole jobs, and a driver that is killed too."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.prove_ray import actors_of
from tests.distributed.conftest import contents
from tests.distributed.echo import make_echo, make_nothing
from visgen.distributed import on_ray
from visgen.distributed.engines import Engine, do_tasks
from visgen.distributed.generation import generate_shards
from visgen.distributed.statistics import image_statistics
from visgen.distributed.tokenization import tokenize_images
from visgen.errors import InputError

pytest.importorskip("ray")
pytest.importorskip("webdataset")
ROOT = Path(__file__).parents[2]
ROWS = [0, 1, 2, 3] * 3
OPTIONS = {"num_images": 2, "seed": 3, "batch_size": 2, "shard_size": 3}  # 24 images in 8 shards
ON_RAY = Engine("ray", workers=2)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Ray's processes are started once, and not those of a cluster that happens to be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with on_ray.cluster(ON_RAY):
            yield


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "one"
    generate_shards(model, ROWS, folder, **OPTIONS)
    return folder


def test_results_come_in_order_and_once_though_actors_die(tmp_path):
    tasks = [{"number": n} | ({"kill": str(tmp_path / str(n))} if n in (0, 5) else {}) for n in range(8)]
    results = list(do_tasks(make_echo, tasks, ON_RAY))
    assert [json.loads(result.removesuffix(b"\0")) for result in results] == tasks
    assert all(result.endswith(b"\0") for result in results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "5"], "nobody was killed"


@pytest.mark.parametrize(
    ("make", "told"), [(make_echo, "nothing to do with 3"), (make_nothing, "there is no worker")]
)
def test_an_error_is_told_as_it_is(make, told):
    with pytest.raises(InputError, match=f"^{told}$"):
        list(do_tasks(make, [{"refuse": "nothing to do with 3"}], Engine("ray")))


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_nothing(model, whole, tmp_path):
    def kill(done, total):
        told.append(done)
        if len(told) == 2:
            killed.append(actors_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    told, killed = [], []
    result = generate_shards(model, ROWS, tmp_path / "out", engine=ON_RAY, on_progress=kill, **OPTIONS)
    assert killed and result.made == 24 and told == list(range(0, 25, 3))
    assert contents(tmp_path / "out") == contents(whole)
    assert generate_shards(model, ROWS, tmp_path / "out", **OPTIONS).made == 0


@pytest.mark.slow
def test_tokens_are_those_of_one_process(model, tars, tmp_path):
    for name, engine in (("one", None), ("many", ON_RAY)):
        tokenize_images(model, tars, tmp_path / name, engine=engine, shard_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.slow
def test_statistics_are_those_of_one_process(folder):
    one, many = (image_statistics(folder, "scenes", engine=engine, part_size=2) for engine in (None, ON_RAY))
    assert one.images_sha256 == many.images_sha256 and one.weights_sha256 == many.weights_sha256
    assert (one.statistics.mean == many.statistics.mean).all()
    assert (one.statistics.covariance == many.statistics.covariance).all()


@pytest.mark.slow
def test_killed_actors_and_a_killed_driver(tmp_path):
    words = ["-n", 48, "--shard-size", 3, "--batch-size", 3, "-o", tmp_path]
    command = [sys.executable, ROOT / "scripts" / "prove_ray.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "48 of 48 images bit-identical" in told.stdout and told.stdout.count("kill -9") == 3
