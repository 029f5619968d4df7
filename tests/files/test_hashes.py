"""Values as JSON holds them."""

import numpy as np
import pytest

from cann_jax.files.hashes import as_json


def test_float32_is_written_as_people_write_it_and_reads_as_the_same():
    values = np.array([[0.2, 1 / 3], [-1e-30, 1e20], [np.inf, 7]], np.float32)
    found = as_json({"all": values, "one": values[0, 0], "wide": np.float64(0.1) + 0.2})
    assert found["one"] == 0.2 and found["all"][0] == [0.2, 0.33333334]
    np.testing.assert_array_equal(np.asarray(found["all"], np.float32), values)
    assert found["wide"] == 0.1 + 0.2


@pytest.mark.parametrize("value", [np.arange(3), np.bool_(True), np.float64(0.5)])
def test_other_arrays_are_their_values(value):
    assert as_json(value) == value.tolist()
