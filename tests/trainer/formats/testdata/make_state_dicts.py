#!/usr/bin/env python3
"""Writes state_dict_protocol{2,4}.pkl: what torch.save puts into data.pkl for one small state dictionary, made by Python's own
pickle module with stand-ins for PyTorch's classes of the same names. Needs no PyTorch."""

import collections
import pickle
import sys
import types

torch = types.ModuleType("torch")
torch._utils = types.ModuleType("torch._utils")
sys.modules["torch"], sys.modules["torch._utils"] = torch, torch._utils


def class_named(name):
    made = type(name, (), {})
    made.__module__ = "torch"
    setattr(torch, name, made)
    return made


def function_named(name):
    def made(*arguments):
        raise NotImplementedError
    made.__module__, made.__name__, made.__qualname__ = "torch._utils", name, name
    setattr(torch._utils, name, made)
    return made


rebuild_tensor, rebuild_parameter = function_named("_rebuild_tensor_v2"), function_named("_rebuild_parameter")


class Storage:
    def __init__(self, kind, key, numbers):
        self.kind, self.key, self.numbers = kind, key, numbers


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce_ex__(self, protocol):
        return rebuild_tensor, self.arguments


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, protocol):
        return rebuild_parameter, (self.tensor, True, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", value.kind, value.key, "cpu", value.numbers)
        return None


kinds = {name: class_named(name + "Storage") for name in ("Float", "Half", "BFloat16", "Long")}
shared = Storage(kinds["Float"], "0", 12)
state = collections.OrderedDict()
state["embedding.weight"] = Tensor(shared, 0, (3, 4), (4, 1))
state["head.weight"] = Tensor(shared, 0, (3, 4), (4, 1))
state["transposed"] = Tensor(shared, 0, (4, 3), (1, 4))
state["cut"] = Tensor(shared, 5, (2, 2), (4, 1))
state["half"] = Parameter(Tensor(Storage(kinds["Half"], "1", 300), 0, (300,), (1,)))
state["brain"] = Tensor(Storage(kinds["BFloat16"], "2", 70000), 0, (70000, 1), (1, 1))
state["position_ids"] = Tensor(Storage(kinds["Long"], "3", 2), 0, (1, 2), (2, 1))
state["scalar"] = Tensor(Storage(kinds["Float"], "4", 1), 0, (), ())
state._metadata = collections.OrderedDict({"": {"version": 1}, "layer": {"version": 2}})

for protocol in (2, 4):
    with open(f"state_dict_protocol{protocol}.pkl", "wb") as file:
        Pickler(file, protocol).dump(state)
