"""Whether a cluster has what a job asks for, can get it, or never will."""

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.operate.jobs.needs import Group, fits, refuse_what_never_fits, waited_for

WORKERS = [{"CPU": 1.0}, *[{"CPU": 4.0, "GPU": 1.0}] * 2]


def test_what_fits_has_to_fit_node_by_node() -> None:
    assert fits(WORKERS, [{"CPU": 9.0, "GPU": 2.0}])
    assert fits(WORKERS, [{"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}])
    assert not fits(WORKERS, [{"CPU": 8.0, "GPU": 2.0}])  # no core is left for the driver
    assert not fits([{"CPU": 4.0}], [{"CPU": 2.0}, {"CPU": 2.0}])  # half here and half there is no node
    assert fits([{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}], [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0}])


def test_a_cluster_that_never_has_it_is_said_with_what_it_has() -> None:
    with pytest.raises(FinedeficsError) as caught:
        refuse_what_never_fits(WORKERS, [{"CPU": 8.0, "memory": 2.0**34}], [], place="cluster x")
    said = str(caught.value)
    assert "2 × (4 CPU, 1 GPU)" in said
    assert "1 node: 1 × (8 CPU, 16 GiB memory), and nothing brings more" in said


def test_an_autoscaler_that_can_bring_it_is_believed_as_far_as_it_goes() -> None:
    here, gpus = [{"CPU": 8.0}], {"CPU": 4.0, "GPU": 1.0}
    assert not refuse_what_never_fits(WORKERS, here, [Group(gpus, 2)], place="x")
    with pytest.raises(FinedeficsError, match="up to 1 × 4 CPU, 1 GPU"):
        refuse_what_never_fits(WORKERS, here, [Group(gpus, 1)], place="x")


def test_what_is_waited_for_is_read_from_the_cluster() -> None:
    demand = {"resourceDemand": [[{"GPU": 1.0, "node:1.2.3.4": 0.01}, 2]], "pgDemand": []}
    answer = {"data": {"clusterStatus": {"loadMetricsReport": demand}}}
    assert waited_for(answer) == "2 × 1 GPU"
    assert waited_for({"data": {"clusterStatus": None}}) == ""
