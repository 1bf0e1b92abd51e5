"""The pool keeps to its limit, whoever asks."""

import os
import threading

import pytest

from porting.weights.descriptors import DescriptorPool


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / str(i) for i in range(9)]
    for i, path in enumerate(found):
        path.write_bytes(bytes([i]))
    return found


def content(pool, path):
    with pool.open(path) as descriptor:
        return os.pread(descriptor, 1, 0)[0]


def test_a_file_stays_open_until_others_need_its_place(paths):
    pool = DescriptorPool(3)
    with pool.open(paths[0]) as first:
        pass
    with pool.open(paths[0]) as again:
        assert again == first
    for i, path in enumerate(paths):
        assert content(pool, path) == i
    assert len(pool) == 3
    pool.close()
    assert len(pool) == 0
    assert content(pool, paths[4]) == 4
    pool.close()


def test_two_users_share_one_descriptor(paths):
    pool = DescriptorPool(1)
    with pool.open(paths[0]) as one, pool.open(paths[0]) as two:
        assert one == two
    assert content(pool, paths[1]) == 1
    pool.close()


def test_threads_wait_for_a_place(paths):
    pool = DescriptorPool(2)
    seen, greatest, wrong = threading.Barrier(8), [], []

    def work(number):
        seen.wait()
        for step in range(200):
            i = (number * 7 + step * 3) % len(paths)
            if content(pool, paths[i]) != i:
                wrong.append(i)
            greatest.append(len(pool))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert max(greatest) <= 2
    pool.close()


def test_a_file_that_cannot_be_opened_takes_no_place(paths, tmp_path):
    pool = DescriptorPool(1)
    for _ in range(3):
        with pytest.raises(OSError):
            content(pool, tmp_path / "absent")
    assert content(pool, paths[0]) == 0
    pool.close()
