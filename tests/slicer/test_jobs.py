import threading
import time

import pytest
from COBOTLib.jobs import Background, BusyError, Cancelled, Job, State


@pytest.fixture
def background():
    background = Background()
    yield background
    assert background.close()


def wait_until_it_ends(background, seconds=20):
    deadline = time.monotonic() + seconds
    while not background.update():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_every_job_runs_on_the_same_thread_and_is_delivered_on_the_one_that_asks(background):
    threads, delivered = [], []
    for number in range(3):
        background.start(
            lambda job, number=number: (threads.append(threading.current_thread()), number)[1],
            lambda result: delivered.append((result, threading.current_thread())),
        )
        wait_until_it_ends(background)
    assert delivered == [(number, threading.main_thread()) for number in range(3)]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_the_main_thread_sees_progress_and_never_waits(background):
    go_on, reported = threading.Event(), threading.Event()

    def work(job):
        job.report(3, 10)
        reported.set()
        go_on.wait(20)

    assert background.state is State.IDLE
    background.start(work, lambda result: None)
    assert reported.wait(20)
    assert not background.update()
    assert (background.state, background.progress) == (State.WORKING, (3, 10))
    with pytest.raises(BusyError, match="still runs"):
        background.start(work, lambda result: None)
    go_on.set()
    wait_until_it_ends(background)
    assert (background.state, background.progress) == (State.IDLE, (0, 0))


def test_a_cancelled_job_stops_between_two_steps_and_delivers_nothing(background):
    steps, started = [], threading.Event()

    def work(job):
        for step in range(10_000):
            started.set()
            job.report(step, 10_000)
            steps.append(step)
            time.sleep(0.001)

    background.start(work, pytest.fail)
    assert started.wait(20)
    background.cancel()
    assert background.state is State.CANCELLING
    wait_until_it_ends(background)
    assert len(steps) < 10_000


def test_a_job_that_came_to_an_end_just_before_it_was_cancelled_delivers_nothing(background):
    done = threading.Event()
    background.start(lambda job: done.set(), pytest.fail)
    assert done.wait(20)
    background.cancel()
    wait_until_it_ends(background)


def test_what_waits_is_stopped_at_once(background):
    waiting, stop = threading.Event(), threading.Event()

    def work(job):
        with job.stopped_by(stop.set):
            waiting.set()
            stop.wait(60)
            job.check()

    background.start(work, pytest.fail)
    assert waiting.wait(20)
    background.cancel()
    wait_until_it_ends(background)


def test_what_stops_a_wait_is_not_called_after_the_wait():
    job = Job(lambda job: None)
    with job.stopped_by(pytest.fail):
        pass
    job.cancel()
    with pytest.raises(Cancelled), job.stopped_by(pytest.fail):
        pytest.fail("a cancelled job does not begin to wait")


def test_an_error_reaches_the_main_thread_and_the_thread_lives_on(background):
    def fail(job):
        raise MemoryError("too large")

    background.start(fail, pytest.fail)
    with pytest.raises(MemoryError, match="too large"):
        wait_until_it_ends(background)
    results = []
    background.start(lambda job: "next", results.append)
    wait_until_it_ends(background)
    assert results == ["next"]


def test_closing_stops_what_runs(background):
    started = threading.Event()

    def work(job):
        while True:
            started.set()
            job.check()

    background.start(work, pytest.fail)
    assert started.wait(20)
    assert background.close()


def test_what_cannot_be_stopped_is_left_alone(background):
    waiting, go_on = threading.Event(), threading.Event()

    def connect():
        waiting.set()
        go_on.wait(60)

    background.start(lambda job: job.leave_if_cancelled(connect), pytest.fail)
    assert waiting.wait(20)
    background.cancel()
    wait_until_it_ends(background)
    assert not go_on.is_set()
    go_on.set()


def test_what_could_be_stopped_and_was_not_gives_what_it_returns_or_raises():
    job = Job(lambda job: None)
    assert job.leave_if_cancelled(lambda: "connected") == "connected"
    with pytest.raises(ConnectionRefusedError):
        job.leave_if_cancelled(refuse)


def refuse():
    raise ConnectionRefusedError


def test_what_is_to_be_done_afterwards_waits_for_what_runs_and_nobody_waits_for_it(background):
    go_on, order, ended = threading.Event(), [], threading.Event()
    background.start(lambda job: (go_on.wait(20), order.append("job")), lambda result: None)
    background.afterwards(refuse)
    background.afterwards(lambda: (order.append(threading.current_thread().name), ended.set()))
    assert order == []
    go_on.set()
    assert ended.wait(20)
    assert order == ["job", "COBOT"]
    wait_until_it_ends(background)
    assert background.state is State.IDLE
