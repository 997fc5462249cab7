"""Warnings from reports made up: no test sees the real machine."""

import pytest

from lowerconv.machine.mpi import GET_MPI
from lowerconv.machine.problems import find_problems


def openblas(kernels, loaded_by="scipy", library="openblas"):
    return {"library": library, "loaded_by": loaded_by, "kernels": kernels}


def healthy(
    instruction_set="avx512",
    blas=(),
    environment=None,
    online=8,
    usable=8,
    quota=None,
    threads=None,
    ranks=None,
    average=0.5,
    driver=None,
    governor=None,
    refused=None,
    source="the cores of this process",
    policy="auto",
):
    """Return the parts of a report that warnings are made from."""
    worth_using = usable if quota is None else max(1, min(usable, int(quota)))
    return {
        "cpu": {"instruction_set": instruction_set},
        "blas": list(blas),
        "environment": environment or {},
        "kept_files": {"directory": "/home/me/.cache", "refused": refused or {}},
        "cores": {
            "online": {"cores": online},
            "usable": {"cores": usable, "cpus": list(range(3, 3 + usable))},
            "cpu_quota": quota,
            "usable_threads": worth_using,
            "threads_in_use": worth_using if threads is None else threads,
            "threads_source": source,
            "affinity": {"policy": policy},
        },
        "load": {"average": average, "ranks_on_host": ranks},
        "frequency": {
            "drivers": [driver] if driver else [],
            "governors": [governor] if governor else [],
        },
        "mpi": {
            "problem": None,
            "mpiexec_on_path": None,
            "mpiexec_beside_python": "/venv/bin/mpiexec",
        },
    }


class TestProblems:
    def test_none(self):
        assert list(find_problems(healthy(blas=[openblas("SkylakeX")]))) == []

    def test_nothing_can_be_kept(self):
        report = healthy(refused={"LOWERCONV_CACHE_DIR": "/home is no directory"})
        (warning,) = find_problems(report)
        assert "cannot be kept (/home is no directory)" in warning
        assert "Set LOWERCONV_CACHE_DIR to a directory that can be written" in warning

    @pytest.mark.parametrize("value", ["", "0", "1"])
    def test_nothing_can_be_compiled(self, value):
        warnings = list(find_problems(healthy(environment={"NUMBA_DISABLE_JIT": value})))
        assert len(warnings) == (value == "1")
        assert all("Unset it" in warning for warning in warnings)

    @pytest.mark.parametrize(
        ("instruction_set", "kernels", "cure"),
        [
            ("avx512", "Haswell", "SkylakeX"),
            ("avx512", "Zen", "SkylakeX"),
            ("avx512", "Nehalem", "SkylakeX"),
            ("avx2", "Sandybridge", "Haswell"),
            ("avx2", "Prescott", "Haswell"),
        ],
    )
    def test_kernels_older_than_the_cpu(self, instruction_set, kernels, cure):
        (warning,) = find_problems(healthy(instruction_set, [openblas(kernels)]))
        assert instruction_set in warning
        assert kernels in warning
        assert f"Set OPENBLAS_CORETYPE={cure} before Python starts" in warning

    @pytest.mark.parametrize(
        ("instruction_set", "library"),
        [
            ("avx512", openblas("SkylakeX")),
            ("avx512", openblas("Cooperlake")),
            ("avx512", openblas("KernelsOfTheFuture")),
            ("avx512", openblas(None)),
            ("avx512", openblas("haswell", library="blis")),
            ("avx2", openblas("Haswell")),
            ("avx2", openblas("Zen")),
            ("avx2", openblas("SkylakeX")),
            ("sse", openblas("Nehalem")),
            ("neon", openblas("neoversen1")),
        ],
    )
    def test_kernels_good_enough(self, instruction_set, library):
        assert list(find_problems(healthy(instruction_set, [library]))) == []

    def test_one_warning_for_equal_kernels(self):
        blas = [openblas("Haswell", "numpy"), openblas("Haswell"), openblas("Zen", "other")]
        first, second = find_problems(healthy(blas=blas))
        assert "numpy, scipy" in first
        assert "other" in second

    def test_kernels_that_the_environment_asks_for(self):
        environment = {"OPENBLAS_CORETYPE": "Haswell"}
        (warning,) = find_problems(healthy(blas=[openblas("Haswell")], environment=environment))
        assert "OPENBLAS_CORETYPE=Haswell asks for this: unset it" in warning
        assert "OPENBLAS_CORETYPE=SkylakeX" in warning

    @pytest.mark.parametrize("ranks", [None, 1, 7])
    def test_affinity_of_one_core(self, ranks):
        (warning,) = find_problems(healthy(usable=1, ranks=ranks))
        assert "one core only (CPU 3) of 8" in warning
        assert "--bind-to none" in warning
        assert "-bind-to core:n" in warning
        assert "--cpus-per-task" in warning

    def test_one_core_that_is_all_there_is(self):
        assert list(find_problems(healthy(online=1, usable=1))) == []
        assert list(find_problems(healthy(online=8, usable=1, ranks=8))) == []

    @pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (2.5, 2), (7.9, 7)])
    def test_quota_smaller_than_the_affinity(self, quota, threads):
        (warning,) = find_problems(healthy(quota=quota))
        assert f"({quota:g} CPUs)" in warning
        assert f"{threads} of them" in warning

    @pytest.mark.parametrize("quota", [8.0, 100.0])
    def test_quota_that_does_not_bind(self, quota):
        assert list(find_problems(healthy(quota=quota))) == []

    def test_mpi_missing(self):
        report = healthy()
        report["mpi"] = {"problem": f"No MPI: {GET_MPI}"}
        assert list(find_problems(report)) == [f"No MPI: {GET_MPI}"]

    def test_mpiexec_missing(self):
        report = healthy()
        report["mpi"]["mpiexec_beside_python"] = None
        (warning,) = find_problems(report)
        assert "mpiexec" in warning
        assert GET_MPI in warning

    @pytest.mark.parametrize(
        ("machine", "words"),
        [
            pytest.param({"threads": 9}, "9 threads are in use, for 8 cores", id="more_than_cores"),
            pytest.param({"usable": 2, "threads": 3}, "for 2 cores", id="more_than_affinity"),
            pytest.param({"ranks": 2}, "2 ranks of 8 threads are more than the 8", id="two_ranks"),
            pytest.param({"ranks": 3, "threads": 3}, "3 ranks of 3 threads", id="three_ranks"),
        ],
    )
    def test_more_threads_than_cores(self, machine, words):
        (warning,) = find_problems(healthy(**machine))
        assert words in warning
        assert "set_num_threads" in warning

    @pytest.mark.parametrize(
        "machine",
        [
            pytest.param({"threads": 8}, id="one_per_core"),
            pytest.param({"ranks": 1}, id="one_rank"),
            pytest.param({"ranks": 4, "threads": 2}, id="ranks_that_share"),
            pytest.param({"ranks": 4, "usable": 2}, id="ranks_that_are_bound"),
            # mpiexec cannot do with less than a thread per rank: the communicator warns of that.
            pytest.param({"ranks": 20, "threads": 1}, id="one_thread_per_rank"),
        ],
    )
    def test_no_more_threads_than_cores(self, machine):
        assert list(find_problems(healthy(**machine))) == []

    def test_ranks_share_the_quota_too(self):
        quota, threads = find_problems(healthy(quota=4.5, ranks=2))
        assert "(4.5 CPUs)" in quota
        assert "2 ranks of 4 threads are more than the 4 cores" in threads

    @pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
    @pytest.mark.parametrize(
        ("value", "warned"),
        [("3", True), ("64,2", True), (" 3 ", True), ("2", False), ("1,9", False)]
        + [("", False), ("all", False), ("-1", False)],
    )
    def test_settings_for_more_threads_than_cores(self, variable, value, warned):
        if variable == "OMP_NUM_THREADS" and value in ("all", "-1"):
            warned = True
        warnings = list(find_problems(healthy(usable=2, environment={variable: value})))
        assert bool(warnings) == warned
        expected = f"Unset it, or set {variable}=2", f"{variable}={value} is ignored"
        assert all(any(part in warning for part in expected) for warning in warnings)

    @pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "LOWERCONV_NUM_THREADS"])
    def test_variable_that_asks_for_more_threads_than_cores(self, variable):
        report = healthy(threads=12, source=variable, environment={variable: "12"})
        (warning,) = find_problems(report)
        assert "12 threads are in use, for 8 cores" in warning
        assert f"{variable} says so: set it to 8" in warning

    @pytest.mark.parametrize(
        ("environment", "threads", "source", "words"),
        [
            (
                {"LOWERCONV_NUM_THREADS": "4", "OMP_NUM_THREADS": "2"},
                *(4, "LOWERCONV_NUM_THREADS"),
                "LOWERCONV_NUM_THREADS=4 is for the convolutions, OMP_NUM_THREADS=2 for other",
            ),
            (
                *({"OMP_NUM_THREADS": "1,2"}, 1, "OMP_NUM_THREADS"),
                "kernels run on 1 of the 8 threads worth using. If it is meant for other "
                "libraries, set LOWERCONV_NUM_THREADS=8",
            ),
            (
                *({"NUMBA_NUM_THREADS": "2"}, 8, "the cores of this process"),
                "NUMBA_NUM_THREADS=2 is not heard",
            ),
        ],
        ids=["own-and-openmp", "openmp-for-others", "numba"],
    )
    def test_settings_that_contradict_each_other(self, environment, threads, source, words):
        report = healthy(threads=threads, source=source, environment=environment)
        (warning,) = find_problems(report)
        assert words in warning

    @pytest.mark.parametrize(
        ("environment", "threads", "source", "ranks"),
        [
            ({"LOWERCONV_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}, 4, "LOWERCONV_NUM_THREADS", 1),
            ({"LOWERCONV_NUM_THREADS": "4"}, 4, "LOWERCONV_NUM_THREADS", 1),
            ({"OMP_NUM_THREADS": "8", "NUMBA_NUM_THREADS": "8"}, 8, "OMP_NUM_THREADS", 1),
            ({"OMP_NUM_THREADS": "2"}, 2, "OMP_NUM_THREADS", 4),
        ],
    )
    def test_settings_that_agree(self, environment, threads, source, ranks):
        report = healthy(threads=threads, source=source, environment=environment, ranks=ranks)
        assert list(find_problems(report)) == []

    def test_an_affinity_of_fewer_cpus_than_threads(self):
        (warning,) = find_problems(healthy(policy=[3, 4]))
        assert "Threads are not bound: 8 of them have CPU 3-4" in warning
        assert "LOWERCONV_NUM_THREADS=2" in warning
        assert list(find_problems(healthy(policy=[3, 4], threads=2))) == []

    @pytest.mark.parametrize(
        ("average", "warned"), [(None, False), (0.0, False), (8.0, False), (8.1, True), (80, True)]
    )
    def test_others_at_work(self, average, warned):
        warnings = list(find_problems(healthy(average=average)))
        assert bool(warnings) == warned
        assert all(f"{average:.1f} threads" in warning for warning in warnings)
        assert all("--threads" in warning for warning in warnings)

    @pytest.mark.parametrize(
        ("driver", "governor", "warned"),
        [
            (None, None, False),  # virtual machines
            (None, "powersave", False),
            ("acpi-cpufreq", "powersave", True),
            ("intel_cpufreq", "powersave", True),  # intel_pstate in passive mode
            ("amd-pstate", "powersave", True),  # in passive or guided mode
            ("intel_pstate", "powersave", False),
            ("amd-pstate-epp", "powersave", False),  # in active mode
            ("acpi-cpufreq", "schedutil", False),
            ("cpufreq-dt", "performance", False),
        ],
    )
    def test_governor_that_keeps_the_clock_low(self, driver, governor, warned):
        warnings = list(find_problems(healthy(driver=driver, governor=governor)))
        assert bool(warnings) == warned
        assert all(f"driver {driver}" in warning for warning in warnings)
        assert all("cpupower frequency-set" in warning for warning in warnings)
