"""tokenizer.json documents in the forms that released models have, around any vocabulary."""

MARKER = "\u2581"

LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                  r"\s+(?!\S)|\s+")
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
O200K_PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
                 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
                 r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(add_prefix_space=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def split(pattern, behavior="Isolated", invert=False):
    key = "Regex" if isinstance(pattern, str) else "String"
    return {"type": "Split", "pattern": {key: pattern if key == "Regex" else pattern[0]}, "behavior": behavior, "invert": invert}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def after_byte_level(*parts):
    return sequence("pretokenizers", *parts, byte_level(use_regex=False))


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


NFC = {"type": "NFC"}

# name -> (normalizer, pre-tokenizer, settings of the model)
BYTE_LEVEL_FORMS = {
    "gpt-2": (None, byte_level(), {}),
    "gpt-2 with a prefix space": (None, byte_level(add_prefix_space=True), {}),
    "gpt-neox": (NFC, byte_level(), {}),
    "llama-3": (None, after_byte_level(split(LLAMA3_PATTERN)), {"ignore_merges": True}),
    "llama-4": (None, after_byte_level(split(O200K_PATTERN)), {}),
    "qwen2": (NFC, after_byte_level(split(QWEN2_PATTERN)), {}),
    "smollm2": (None, sequence("pretokenizers", digits(True), byte_level()), {}),
    "digits together": ({"type": "NFKC"}, sequence("pretokenizers", digits(False), byte_level(add_prefix_space=True)), {}),
    "apostrophes and triples": ({"type": "NFD"}, after_byte_level(split(["'"], "Contiguous"), split("[0-9][0-9][0-9]")), {}),
    "lower case without accents": (sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                                            {"type": "Strip", "strip_left": True, "strip_right": True}), byte_level(), {}),
    "replaced": (sequence("normalizers", {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                          {"type": "Strip", "strip_left": False, "strip_right": True}), byte_level(), {}),
    "white space and punctuation": (None, after_byte_level({"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Contiguous"}),
                                    {}),
    "bert": (None, after_byte_level({"type": "BertPreTokenizer"}), {}),
    "words": (None, after_byte_level({"type": "Whitespace"}, {"type": "CharDelimiterSplit", "delimiter": "e"}), {}),
    "split removed": (None, after_byte_level(split(r"\s+", "Removed"), split(["a"], "Isolated", True)), {}),
    "split with previous": ({"type": "NFKD"}, after_byte_level(split(r"\s", "MergedWithPrevious")), {}),
    "split with next": (None, after_byte_level(split(r"[^\w\s]", "MergedWithNext")), {}),
    "split contiguous": (None, after_byte_level(split(r"\d|\p{P}", "Contiguous")), {}),
    "split inverted": (None, after_byte_level(split(r"\p{L}+|\p{N}", "Removed", True)), {}),
}


BY_BYTES = byte_level(use_regex=False)
# name -> (normalizer, pre-tokenizer)
PARTS = {
    **{form: ({"type": form}, BY_BYTES) for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")},
    "digits": (None, after_byte_level(digits(True))), "gpt-2": (None, byte_level()),
    **{kind: (None, after_byte_level({"type": kind})) for kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")},
    "Punctuation": (None, after_byte_level({"type": "Punctuation", "behavior": "Isolated"})),
}


def model_of_neighbours(letter):
    """A byte-level vocabulary that joins the letter to any byte beside it: its tokens tell where a text was cut."""
    others = [chr(code) for code in range(256 + 68) if chr(code).isprintable() and chr(code) not in (" ", letter)]
    pairs = [pair for byte in others for pair in ((letter, byte), (byte, letter))]
    pieces = [letter, *others, *("".join(pair) for pair in pairs)]
    return {"vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": [list(pair) for pair in pairs]}


def added_token(token_id, content, special=False, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": special, **flags}


# Content and flags of added tokens, all put into one vocabulary. None has letters of Latin-1: the byte-level decoder of the
# tokenizers library takes those of an added token for bytes, where ours keeps the token's text.
ADDED_TOKENS = [
    ("<|endoftext|>", {"special": True}),
    ("<mask>", {"special": True, "lstrip": True}),
    ("<sep>", {"special": True, "rstrip": True}),
    ("<both>", {"lstrip": True, "rstrip": True}),
    ("<both><both>", {}),
    ("word", {"single_word": True}),
    ("Wort", {"single_word": True, "normalized": True, "lstrip": True}),
    ("\u03bb\u03cc\u03b3\u03bf\u03c2", {"normalized": True}),
    ("\u2581\u2581\u2581", {}),
    ("   ", {}),
    ("\n", {}),
    ("\u212b", {}),
    ("o\u0302\u0301", {"normalized": True, "special": True}),
    ("\u4f60\u597d", {"normalized": True}),
    ("      ", {"normalized": True}),
    ("<n>", {"normalized": True, "special": True, "rstrip": True}),
]
ADDED_CONTENTS = [content for content, _ in ADDED_TOKENS]


def add_tokens(document):
    """Puts ADDED_TOKENS behind the vocabulary of a document."""
    next_id = max(document["model"]["vocab"].values()) + 1
    for content, flags in ADDED_TOKENS:
        known = document["model"]["vocab"].get(content)
        document["added_tokens"].append(added_token(next_id if known is None else known, content, **flags))
        next_id += known is None
    return document


def begin_with(document, content):
    """Makes the post-processor put the added token `content` in front."""
    token_id = next(token["id"] for token in document["added_tokens"] if token["content"] == content)
    document["post_processor"] = sequence("processors", byte_level(), {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": content, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {content: {"id": content, "ids": [token_id], "tokens": [content]}}})
    return document


def document_of(model, settings, normalizer, pre_tokenizer, decoder, added_tokens=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, **model, **settings}}


def byte_level_document(model, form):
    """`model` is {"vocab", "merges"} in GPT-2's alphabet."""
    normalizer, pre_tokenizer, settings = BYTE_LEVEL_FORMS[form]
    return document_of(model, settings, normalizer, pre_tokenizer, byte_level(add_prefix_space=True))


def metaspace(scheme, split_words):
    return {"type": "Metaspace", "replacement": MARKER, "prepend_scheme": scheme, "split": split_words}


LLAMA_NORMALIZER = sequence("normalizers", {"type": "Prepend", "prepend": MARKER},
                            {"type": "Replace", "pattern": {"String": " "}, "content": MARKER})
REPLACE_ONLY = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
TO_SPACES = {"type": "Replace", "pattern": {"String": MARKER}, "content": " "}
LLAMA_DECODER = sequence("decoders", TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0})
GEMMA_DECODER = sequence("decoders", TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"})

# name -> (normalizer, pre-tokenizer, decoder, settings of the model)
SCORED_FORMS = {
    "llama-2": (LLAMA_NORMALIZER, None, LLAMA_DECODER, {"byte_fallback": True, "fuse_unk": True}),
    "mistral": (None, metaspace("first", False), LLAMA_DECODER, {"byte_fallback": True, "fuse_unk": True}),
    "metaspace": (None, metaspace("always", True), LLAMA_DECODER, {"byte_fallback": True, "fuse_unk": True}),
    "first letter removed": (None, sequence("pretokenizers", split("^[a-z]", "Removed"), metaspace("first", True)), LLAMA_DECODER,
                             {"byte_fallback": True}),
    "metaspace decoder": (NFC, metaspace("always", True), metaspace("always", True), {}),
    "no marker in front": (None, metaspace("never", True), metaspace("never", True), {"fuse_unk": True}),
    "gemma": (REPLACE_ONLY, split([" "], "MergedWithPrevious"), GEMMA_DECODER, {"byte_fallback": True, "fuse_unk": True}),
    "unknown not fused": (LLAMA_NORMALIZER, None, LLAMA_DECODER, {"byte_fallback": False}),
    "unknown fused": (LLAMA_NORMALIZER, None, LLAMA_DECODER, {"fuse_unk": True}),
    "whole pieces": (None, metaspace("first", True), LLAMA_DECODER, {"byte_fallback": True, "ignore_merges": True}),
}


def scored_document(model, form):
    """`model` is {"vocab", "merges"} with pieces as SentencePiece spells them, of which 0..2 are <unk>, <s> and </s>."""
    normalizer, pre_tokenizer, decoder, settings = SCORED_FORMS[form]
    specials = [added_token(0, "<unk>", True), added_token(1, "<s>", True), added_token(2, "</s>", True)]
    return document_of(model, {"unk_token": "<unk>", **settings}, normalizer, pre_tokenizer, decoder, specials)


def merges_of(pieces_by_score):
    """Merges of a SentencePiece BPE model: every cut of a piece into two others, in order of score, as converters make them."""
    ids = {piece: index for index, piece in enumerate(pieces_by_score)}
    merges = []
    for piece in pieces_by_score:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in ids and piece[at:] in ids]
        merges += sorted(cuts, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    return merges
