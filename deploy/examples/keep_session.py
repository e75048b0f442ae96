"""Talks to a chat model for two turns that share a session: the second reads only what is new.

    python keep_session.py [HOST:PORT] 'My name is Ada.' 'What is my name?'
"""

import sys

import grpc
from mambad.v1 import generation_pb2 as pb
from mambad.v1 import generation_pb2_grpc, session_pb2, session_pb2_grpc


def say(stub, messages, session_id):
    """One turn: the answer's text, and its completion with the session that it has left behind."""
    request = pb.GenerateRequest(
        conversation=pb.Conversation(messages=messages),
        stopping=pb.Stopping(max_tokens=48),
        keep_session=True,
    )
    if session_id:
        request.session_id = session_id
    answer = stub.GenerateOnce(request, timeout=60)
    return answer.text, answer.completion


def main():
    address, *turns = sys.argv[1:] if ":" in sys.argv[1] else ["127.0.0.1:50051", *sys.argv[1:]]
    with grpc.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        messages, session_id = [], ""
        for turn in turns:
            messages.append(pb.Message(role="user", content=turn))
            text, done = say(stub, messages, session_id)
            session_id = done.session_id
            messages.append(pb.Message(role="assistant", content=text))
            print(f"{text}\n[{done.usage.prompt_tokens} tokens of prompt, {done.usage.cached_tokens} of them kept from before]")
        session_pb2_grpc.SessionsStub(channel).Delete(session_pb2.DeleteSessionRequest(session_id=session_id))


if __name__ == "__main__":
    main()
