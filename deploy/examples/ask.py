"""Asks a mambad for the continuation of a text, and prints it as it comes.

    python ask.py 'Once upon a time'
    python ask.py --chat 'Why is the sky blue?'
    python ask.py --address mambad.example.org:50051 --authority ca.pem --token-file token 'Once upon a time'
"""

import argparse
import sys

import grpc
from mambad.v1 import generation_pb2 as pb
from mambad.v1 import generation_pb2_grpc


def read(path, mode="rb"):
    with open(path, mode) as file:
        return file.read()


def connect(arguments):
    """A channel: with TLS where the server's authority is named."""
    if arguments.authority is None:
        return grpc.insecure_channel(arguments.address)
    return grpc.secure_channel(arguments.address, grpc.ssl_channel_credentials(read(arguments.authority)))


def request_of(arguments):
    request = pb.GenerateRequest(
        sampling=pb.Sampling(temperature=0.7, top_p=0.9, seed=1),
        stopping=pb.Stopping(max_tokens=arguments.max_tokens),
    )
    if arguments.chat:  # a chat model: its template makes a prompt of the messages
        request.conversation.messages.append(pb.Message(role="user", content=arguments.prompt))
    else:
        request.text = arguments.prompt
    return request


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--chat", action="store_true", help="the prompt is a question to a chat model")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--authority", help="a file: who has signed the server's certificate")
    parser.add_argument("--token-file", help="a file with the token of mambactl token create")
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    metadata = []
    if arguments.token_file:
        metadata.append(("authorization", "Bearer " + read(arguments.token_file, "r").strip()))
    try:
        with connect(arguments) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            for response in stub.Generate(request_of(arguments), timeout=60, metadata=metadata):
                print(response.text, end="", flush=True)
                if response.HasField("completion"):
                    done = response.completion
                    print(f"\n{pb.FinishReason.Name(done.finish_reason)}: {done.usage.completion_tokens} tokens, "
                          f"{done.speculation.accepted} of {done.speculation.drafted} drafts accepted", file=sys.stderr)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
