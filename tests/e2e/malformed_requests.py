"""Requests that must be refused, each with the code and the field that the answer must name."""

import dataclasses
import math
import typing

INT32_MAX, INT32_MIN = 2**31 - 1, -2**31
INT64_MAX, INT64_MIN = 2**63 - 1, -2**63
NOT_FINITE = (math.nan, math.inf, -math.inf)


@dataclasses.dataclass
class Case:
    method: str
    request: typing.Any
    field: str
    code: str = "INVALID_ARGUMENT"


def cases(pb, info):
    limits = info.limits
    vocabulary = info.model.vocabulary
    found = []

    def generate(field, change, code="INVALID_ARGUMENT", method="Generate"):
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]))
        request.stopping.max_tokens = 4
        change(request)
        found.append(Case(method, request, field, code))

    def numbers(part, name, values):
        def change(request, value):
            setattr(getattr(request, part) if part else request, name, value)
        for value in values:
            generate(f"{part}.{name}" if part else name, lambda r, v=value: change(r, v))
        # The call that answers once takes another way in: one of them there.
        generate(f"{part}.{name}" if part else name, lambda r: change(r, values[0]), method="GenerateOnce")

    # Numbers out of range.
    numbers("sampling", "temperature", (-1, -0.001, 100.5, 200, 1e30, *NOT_FINITE))
    numbers("sampling", "top_p", (0, -0.1, 1.001, 2, 1e-9, *NOT_FINITE))
    numbers("sampling", "min_p", (-0.1, 1.001, 7, *NOT_FINITE))
    numbers("sampling", "repetition_penalty", (0, -1, 100.5, 1e20, *NOT_FINITE))
    numbers("sampling", "presence_penalty", (-100.5, 100.5, 1e20, *NOT_FINITE))
    numbers("sampling", "frequency_penalty", (-100.5, 100.5, 1e20, *NOT_FINITE))
    numbers("sampling", "top_k", (-1, vocabulary + 1, INT32_MAX, INT32_MIN))
    numbers("stopping", "max_tokens", (0, -1, limits.context + 1, INT64_MAX, INT64_MIN))
    numbers("stopping", "min_tokens", (-1, 5, limits.context + 1, INT64_MAX, INT64_MIN))
    numbers("output", "logprobs", (-1, limits.logprobs + 1, INT32_MAX, INT32_MIN))
    numbers("output", "prompt_logprobs", (-1, limits.logprobs + 1, INT32_MAX, INT32_MIN))
    numbers("output", "n", (0, -1, limits.n + 1, INT32_MAX, INT32_MIN))
    numbers("output", "stream_interval", (0, -1, 65537, INT32_MAX, INT32_MIN))
    numbers("speculation", "draft_length", (-1, limits.draft_length + 1, INT32_MAX, INT32_MIN))
    numbers("speculation", "mode", (5, 99, -1, INT32_MAX))
    numbers("", "priority", (-101, 101, INT32_MAX, INT32_MIN))
    numbers("", "request_id", ("x" * 129, "x" * 10000, "é", "line\nbreak", "tab\t", "\x7f", "\0"))

    # Lists.
    out_of_range = (-1, vocabulary, vocabulary + 1000, INT32_MAX, INT32_MIN)
    for bad in out_of_range:
        generate(f"sampling.logit_bias[{bad}]", lambda r, v=bad: r.sampling.logit_bias.update({v: 1.0}))
        generate("sampling.allowed_token_ids[1]", lambda r, v=bad: r.sampling.allowed_token_ids.extend([0, v]))
        generate("stopping.stop_token_ids[2]", lambda r, v=bad: r.stopping.stop_token_ids.extend([0, 1, v]))
        generate("token_ids.ids[3]", lambda r, v=bad: r.token_ids.ids.append(v))
        generate("token_ids.ids[0]", lambda r, v=bad: r.token_ids.ids.insert(0, v), method="GenerateOnce")
    for bad in (1000.5, -1000.5, 1e30, *NOT_FINITE):
        generate("sampling.logit_bias[7]", lambda r, v=bad: r.sampling.logit_bias.update({7: v}))
    if limits.logit_bias < vocabulary:
        generate("sampling.logit_bias",
                 lambda r: r.sampling.logit_bias.update({i: 1.0 for i in range(limits.logit_bias + 1)}))
    generate("sampling.allowed_token_ids", lambda r: r.sampling.allowed_token_ids.extend([0] * (vocabulary + 1)))
    generate("stopping.stop_token_ids", lambda r: r.stopping.stop_token_ids.extend([0] * (limits.stop_token_ids + 1)))
    for count in (1, 2, 5):
        generate("stopping.stop_strings", lambda r, c=count: r.stopping.stop_strings.extend(["s"] * (limits.stop_strings + c)))
        generate(f"stopping.stop_strings[{count}]", lambda r, c=count: r.stopping.stop_strings.extend(["s"] * c + [""]))
        generate("stopping.stop_strings[0]",
                 lambda r, c=count: r.stopping.stop_strings.append("s" * (limits.stop_string_bytes + c)))

    # So many that they are refused by their number alone.
    generate("stopping.stop_strings", lambda r: r.stopping.stop_strings.extend([""] * 100_000))
    generate("sampling.logit_bias",
             lambda r: r.sampling.logit_bias.update({i: 1.0 for i in range(20_000)}))
    generate("sampling.allowed_token_ids", lambda r: r.sampling.allowed_token_ids.extend([1] * 100_000))
    generate("stopping.stop_token_ids", lambda r: r.stopping.stop_token_ids.extend([1] * 100_000))
    generate("token_ids.ids", lambda r: r.token_ids.ids.extend([1] * 100_000), method="GenerateOnce")
    generate("conversation.messages",
             lambda r: r.conversation.messages.extend([pb.Message()] * 100_000), method="GenerateOnce")
    if info.has_tokenizer:
        generate("text", lambda r: setattr(r, "text", "a" * (limits.text_bytes + 1)))
    if info.has_chat_template:
        generate("conversation",
                 lambda r: r.conversation.messages.add(role="user", content="a" * (limits.text_bytes + 1)))

    # The prompt.
    generate("input", lambda r: r.ClearField("token_ids"))
    generate("input", lambda r: r.ClearField("token_ids"), method="GenerateOnce")
    generate("token_ids.ids", lambda r: r.token_ids.ClearField("ids"))
    generate("token_ids.ids", lambda r: r.token_ids.ids.extend([1] * limits.context))
    generate("token_ids.ids", lambda r: r.token_ids.ids.extend([1] * (limits.prompt_tokens - 2)))
    generate("text", lambda r: setattr(r, "text", ""))
    if info.has_tokenizer:
        generate("text", lambda r: setattr(r, "text", "a b " * limits.context))
    generate("conversation.messages", lambda r: r.conversation.SetInParent())
    generate("conversation.messages",
             lambda r: r.conversation.messages.extend([pb.Message(role="user", content="x")] * (limits.messages + 1)))
    for count in (0, 1, 2):
        generate(f"conversation.messages[{count}].role",
                 lambda r, c=count: r.conversation.messages.extend(
                     [pb.Message(role="user", content="x")] * c + [pb.Message(content="y")]))

    # What is on the wire and not served.
    if not info.HasField("draft_model"):
        generate("speculation.mode", lambda r: setattr(r.speculation, "mode", pb.Speculation.DRAFT_MODEL))
    # Two wrong fields: both are named.
    for field in ("sampling.temperature", "output.n"):
        def both(request, method=field):
            request.sampling.temperature = -2
            request.output.n = 0 if method == "output.n" else -7
        generate(field, both)

    def score(field, ids=(1, 2, 3), **fields):
        request = pb.ScoreRequest(**fields)
        if ids is not None:
            request.token_ids.ids.extend(ids)
        found.append(Case("Score", request, field))

    for position in (0, -1, 3, 4, INT64_MAX, INT64_MIN):
        score("from", **{"from": position})
    for count in (-1, limits.logprobs + 1, INT32_MAX, INT32_MIN):
        score("alternatives", alternatives=count)
    for priority in (-101, 101):
        score("priority", priority=priority)
    score("request_id", request_id="x" * 129)
    score("input", ids=None)
    score("token_ids.ids", ids=())
    score("token_ids.ids", ids=(1,))
    score("token_ids.ids", ids=[1] * (limits.context + 1))
    for bad in out_of_range:
        score("token_ids.ids[1]", ids=(1, bad))
    found.append(Case("Score", pb.ScoreRequest(text=""), "text"))

    if info.has_tokenizer:
        found.append(Case("Tokenize", pb.TokenizeRequest(), "input"))
        found.append(Case("Tokenize", pb.TokenizeRequest(conversation=pb.Conversation()), "conversation.messages"))
        talk = pb.Conversation(messages=[pb.Message(role="user", content="x")])
        for value in (True, False):
            found.append(Case("Tokenize", pb.TokenizeRequest(conversation=talk, add_special_tokens=value),
                              "add_special_tokens"))
            found.append(Case("Tokenize", pb.TokenizeRequest(conversation=talk, parse_special=value), "parse_special"))
        found.append(Case("Tokenize", pb.TokenizeRequest(conversation=pb.Conversation(messages=[pb.Message(content="x")])),
                          "conversation.messages[0].role"))
        for bad in out_of_range:
            found.append(Case("Detokenize", pb.DetokenizeRequest(token_ids=[1, 2, bad]), "token_ids[2]"))
        found.append(Case("Detokenize", pb.DetokenizeRequest(token_ids=[1] * (limits.context + 1)), "token_ids"))
    return found
