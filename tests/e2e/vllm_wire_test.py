#!/usr/bin/env python3
"""proto/vllm against the Python package that routers' interface is published as, smg-grpc-proto: what is in both has the same
names, numbers and types, and the same bytes, whichever side writes them.

    vllm_wire_test.py
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2, vllm_engine_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
THEIRS = {"vllm.grpc.engine": vllm_engine_pb2, "smg.grpc.common": common_pb2}
# Told by ours in fewer words: what is refused is not read.
EMPTY_HERE = {"KvTransferParams", "MultimodalInputs", "MediaRefs"}


def read_ours():
    """Our files in a pool of their own, as both name their messages alike."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "set"
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}",
                        f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}", f"--descriptor_set_out={path}",
                        "--include_imports", "vllm/tokenizer.proto", "vllm/vllm_engine.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool, files


POOL, FILES = read_ours()
OURS = {f"{file.package}.{message.name}": POOL.FindMessageTypeByName(f"{file.package}.{message.name}")
        for file in FILES.file for message in file.message_type}


def their_descriptor(full_name):
    package, name = full_name.rsplit(".", 1)
    return THEIRS[package].DESCRIPTOR.message_types_by_name[name]


def facts(field):
    """What of a field the wire knows, and its name, its presence, its oneof."""
    message = field.message_type.full_name if field.message_type is not None else ""
    oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        message = str([facts(inner) for inner in field.message_type.fields])
    return (field.number, field.type, field.is_repeated, field.has_presence, message, oneof)


def set_every_field(message):
    """Values that are no defaults; of a oneof the last field stays."""
    for field in message.DESCRIPTOR.fields:
        values = {field.CPPTYPE_STRING: "text" if field.type == field.TYPE_STRING else b"bytes", field.CPPTYPE_BOOL: True,
                  field.CPPTYPE_INT32: -field.number - 100, field.CPPTYPE_UINT32: field.number + 300,
                  field.CPPTYPE_INT64: -field.number - (1 << 40), field.CPPTYPE_UINT64: field.number + (1 << 40),
                  field.CPPTYPE_ENUM: 2, field.CPPTYPE_FLOAT: 0.5 + field.number, field.CPPTYPE_DOUBLE: 0.25 + field.number}
        repeated = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            if value.message_type is not None:
                set_every_field(repeated[values[key.cpp_type]])
            else:
                repeated[values[key.cpp_type]] = values[value.cpp_type]
        elif field.cpp_type == field.CPPTYPE_MESSAGE:
            if field.is_repeated:
                for _ in range(2):
                    set_every_field(repeated.add())
            else:
                repeated.SetInParent()
                set_every_field(repeated)
        elif field.is_repeated:
            repeated.extend([values[field.cpp_type]] * 2)
        else:
            setattr(message, field.name, values[field.cpp_type])


class VllmWireTest(unittest.TestCase):
    def test_fields_are_theirs(self):
        self.assertGreater(len(OURS), 25)
        for full_name, ours in OURS.items():
            theirs = their_descriptor(full_name)
            for field in ours.fields:
                self.assertIn(field.name, theirs.fields_by_name, full_name)
                self.assertEqual(facts(field), facts(theirs.fields_by_name[field.name]), f"{full_name}.{field.name}")

    def test_every_field_of_what_is_asked_is_known_here(self):
        # Who asks for what we do not know would not be told that he does not get it.
        for name in ("GenerateRequest", "SamplingParams", "TokenizedInput", "AbortRequest", "GetLoadsRequest"):
            theirs = their_descriptor(f"vllm.grpc.engine.{name}")
            self.assertEqual({field.name for field in theirs.fields},
                             {field.name for field in OURS[f"vllm.grpc.engine.{name}"].fields}, name)

    def test_methods_are_theirs(self):
        service = THEIRS["vllm.grpc.engine"].DESCRIPTOR.services_by_name["VllmEngine"]
        ours = POOL.FindServiceByName("vllm.grpc.engine.VllmEngine")
        for method in ours.methods:
            their_method = service.methods_by_name[method.name]
            self.assertEqual(method.input_type.full_name, their_method.input_type.full_name)
            self.assertEqual(method.output_type.full_name, their_method.output_type.full_name)
            self.assertEqual((method.client_streaming, method.server_streaming),
                             (their_method.client_streaming, their_method.server_streaming))
        # What is called by path.
        self.assertTrue(hasattr(vllm_engine_pb2_grpc.VllmEngineServicer, "Generate"))

    def test_bytes_are_the_same_both_ways(self):
        for full_name, descriptor in OURS.items():
            if descriptor.name in EMPTY_HERE:
                continue
            theirs = message_factory.GetMessageClass(their_descriptor(full_name))
            ours = message_factory.GetMessageClass(descriptor)
            mine = ours()
            set_every_field(mine)
            written = mine.SerializeToString(deterministic=True)
            read = theirs.FromString(written)
            self.assertEqual(read.SerializeToString(deterministic=True), written, full_name)
            self.assertEqual(json_format.MessageToDict(read, preserving_proto_field_name=True),
                             json_format.MessageToDict(mine, preserving_proto_field_name=True), full_name)
            # All that they can say: what we know of it comes back as it was, the rest unharmed.
            other = theirs()
            set_every_field(other)
            written = other.SerializeToString(deterministic=True)
            back = theirs.FromString(ours.FromString(written).SerializeToString(deterministic=True))
            self.assertEqual(back, other, full_name)


if __name__ == "__main__":
    unittest.main()
