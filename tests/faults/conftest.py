"""What the tests of several faults share."""

import pytest

from tests.faults import model_free


@pytest.fixture(scope="module")
def classes_travel(request):
    """Ray's workers know no test modules: what is defined in the module, and the model without torch, go to them by value."""
    from ray import cloudpickle

    modules = (request.module, model_free)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)
