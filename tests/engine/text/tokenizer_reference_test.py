#!/usr/bin/env python3
"""Our tokenizers against the libraries that models are made with: Hugging Face's tokenizers and Google's sentencepiece.

    tokenizer_reference_test.py PATH/TO/tokenize_lines [-v] [TEST...]

Vocabularies are trained on the spot; the real ones of MAMBAD_SHARED_DATA are added where that folder is.
"""

import functools
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import sentencepiece
import tokenizers

import reference_documents as documents
import reference_patterns as patterns
import reference_texts as texts

PROGRAM = None  # set by main
SHARED = pathlib.Path(os.environ.get("MAMBAD_SHARED_DATA", "/nowhere")) / "tokenizers"
SEED = int(os.environ.get("MAMBAD_REFERENCE_SEED", "1"))
RANDOM_TEXTS = int(os.environ.get("MAMBAD_REFERENCE_TEXTS", "240"))
SHOWN = 5  # differences of one vocabulary


def shared_file(name):
    """Path of a file of the optional test data; skips the test without it."""
    path = SHARED / name
    if not path.is_file():
        raise unittest.SkipTest(f"shared test data not found: tokenizers/{name} (MAMBAD_SHARED_DATA)")
    return path


@functools.cache
def plain_texts():
    """Fixed texts, random ones, and the conformance texts where they are."""
    cases = SHARED / "cases" / "ggml-vocab-gpt-2.gguf.inp"
    conformance = cases.read_bytes().decode().split("\n__ggml_vocab_test__\n") if cases.is_file() else []
    return texts.FIXED + conformance + texts.random_texts(SEED, RANDOM_TEXTS)


@functools.cache
def texts_with_tokens(*contents):
    return texts.with_tokens_between(SEED, plain_texts()[-RANDOM_TEXTS:], contents)


@functools.cache
def training_texts():
    words = texts.random_texts(SEED + 1, 1200, texts.WORDS)
    return words + texts.FIXED + [texts.__doc__, documents.__doc__, __doc__] * 3


@functools.cache
def trained_byte_level_model():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(training_texts(), tokenizers.trainers.BpeTrainer(
        vocab_size=900, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return bpe_of(json.loads(tokenizer.to_str()))


def bpe_of(document):
    return {key: document["model"][key] for key in ("vocab", "merges")}


@functools.cache
def trained_sentencepiece_model(**options):
    """Bytes of a tokenizer.model trained as Llama's was."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(**{
        "sentence_iterator": iter([text.replace("\0", " ") for text in training_texts()]), "model_writer": model,
        "model_type": "bpe", "vocab_size": 1200, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True,
        "character_coverage": 0.98, "minloglevel": 2, "num_threads": 1, **options})
    return model.getvalue()


def scored_model(sentencepiece_model):
    """Vocabulary and merges of a SentencePiece model as converters to tokenizer.json make them."""
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    pieces = [library.id_to_piece(index) for index in range(library.get_piece_size())]
    normal = [piece for index, piece in enumerate(pieces)
              if not (library.is_byte(index) or library.is_control(index) or library.is_unknown(index))]
    return {"vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": documents.merges_of(normal)}


def ask(files, requests):
    """Answers of tokenize_lines, with `files` (name -> bytes) as the model directory."""
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in files.items():
            (pathlib.Path(folder) / name).write_bytes(contents)
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run([PROGRAM, folder], input=lines, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


class ReferenceTest(unittest.TestCase):
    def expect(self, files, requests, expected, excused=lambda ours, theirs: False):
        answers = ask(files, requests)
        if len(answers) == 1 and "error" in answers[0]:
            self.fail(answers[0]["error"])
        self.assertEqual(len(answers), len(expected))
        answers = [{key: answer.get(key) for key in wanted} for answer, wanted in zip(answers, expected)]
        faults = [(request, ours, theirs) for request, ours, theirs in zip(requests, answers, expected)
                  if ours != theirs and not excused(ours, theirs)]
        shown = ["".join(f"\n  {name}: {ascii(value)}" for name, value in zip(("request", "ours", "theirs"), fault))
                 for fault in faults[:SHOWN]]
        if faults:
            self.fail(f"{len(faults)} of {len(requests)} differ:" + "\n".join(shown))


class TokenizerJsonTest(ReferenceTest):
    """Against the tokenizers library, which reads the same tokenizer.json."""

    def compare(self, document, texts_to_try, ids_to_try=()):
        text = document if isinstance(document, str) else json.dumps(document)
        library = tokenizers.Tokenizer.from_str(text)
        requests, expected = [], []

        def add(request, ids, answer):
            requests.append(request)
            expected.append({**answer, "decoded": library.decode(ids, skip_special_tokens=False),
                             "plain": library.decode(ids, skip_special_tokens=True)})

        for parse_special in (True, False):
            library.encode_special_tokens = not parse_special
            for add_special in (True, False):
                if not parse_special and add_special:
                    continue
                encodings = library.encode_batch(list(texts_to_try), add_special_tokens=add_special)
                for one, encoding in zip(texts_to_try, encodings):
                    add({"text": one, "add_special": add_special, "parse_special": parse_special}, encoding.ids,
                        {"ids": encoding.ids})
        for ids in ids_to_try:
            add({"ids": ids}, ids, {})
        self.expect({"tokenizer.json": text.encode()}, requests, expected)

    def compare_byte_level_forms(self, model):
        for form in documents.BYTE_LEVEL_FORMS:
            with self.subTest(form=form):
                self.compare(documents.byte_level_document(model, form), plain_texts(), self.random_ids(model))

    def compare_scored_forms(self, model):
        for form in documents.SCORED_FORMS:
            with self.subTest(form=form):
                document = documents.begin_with(documents.scored_document(model, form), "<s>")
                self.compare(document, plain_texts() + texts_with_tokens("<unk>", "<s>", "</s>"))

    @staticmethod
    def random_ids(model):
        source = texts.random.Random(SEED)
        size = len(model["vocab"])
        return [[source.randrange(size) for _ in range(source.randint(1, 20))] for _ in range(100)]

    def test_parts_over_all_of_unicode(self):
        everything = texts.characters_by_block().replace("\0", "")
        around = ["".join(f"a{character}a" for character in everything[at:at + 200]) for at in range(0, len(everything), 200)]
        for name, (normalizer, pre_tokenizer) in documents.PARTS.items():
            with self.subTest(name=name):
                document = documents.document_of(documents.model_of_neighbours("a"), {}, normalizer, pre_tokenizer, documents.byte_level())
                self.compare(document, around)

    def test_single_words_over_all_of_unicode(self):
        document = documents.byte_level_document(documents.model_of_neighbours("a"), "gpt-2")
        document["added_tokens"].append(documents.added_token(len(document["model"]["vocab"]), "ZZ", single_word=True))
        everything = texts.characters_by_block().replace("\0", "")
        self.compare(document, ["ZZ".join(everything[at:at + 50:2]) for at in range(0, len(everything), 50)] +
                     ["ZZ".join(everything[at + 1:at + 50:2]) for at in range(0, len(everything), 50)])

    def test_byte_level_forms(self):
        self.compare_byte_level_forms(trained_byte_level_model())

    def test_byte_level_forms_of_gpt2(self):
        self.compare_byte_level_forms(bpe_of(json.loads(shared_file("gpt2/tokenizer.json").read_text(encoding="utf-8"))))

    def test_scored_forms(self):
        self.compare_scored_forms(scored_model(trained_sentencepiece_model()))

    def test_scored_forms_of_llama2(self):
        self.compare_scored_forms(scored_model(shared_file("llama2/tokenizer.model").read_bytes()))

    def test_scored_forms_of_mistral(self):
        self.compare_scored_forms(scored_model(shared_file("mistral/tokenizer.model.v1").read_bytes()))

    def test_added_tokens(self):
        for form in ("gpt-2", "gpt-neox", "llama-3", "gpt-2 with a prefix space"):
            with self.subTest(form=form):
                document = documents.add_tokens(documents.byte_level_document(trained_byte_level_model(), form))
                self.compare(documents.begin_with(document, "<|endoftext|>"), texts_with_tokens(*documents.ADDED_CONTENTS))
        for form in ("llama-2", "mistral", "metaspace", "gemma"):
            with self.subTest(form=form):
                document = documents.add_tokens(documents.scored_document(scored_model(trained_sentencepiece_model()), form))
                self.compare(documents.begin_with(document, "<s>"), texts_with_tokens(*documents.ADDED_CONTENTS))

    def test_released_files(self):
        for name in ("gpt2/tokenizer.json", "gpt-neox-20b/tokenizer.json", "small/tiny_bpe_tokenizer.json"):
            with self.subTest(name=name):
                document = json.loads(shared_file(name).read_text(encoding="utf-8"))
                contents = [token["content"] for token in document["added_tokens"]]
                self.compare(document, plain_texts() + texts_with_tokens(*contents), self.random_ids(document["model"]))


class PatternTest(ReferenceTest):
    """Against the Split pre-tokenizer of the tokenizers library: Oniguruma."""

    ANY_TOKENIZER = {"tokenizer.json": json.dumps(documents.byte_level_document({"vocab": {"a": 0}, "merges": []}, "gpt-2")).encode()}

    @staticmethod
    def pieces_of(text, matches):
        """The text, cut at the matches."""
        data, at, pieces = text.encode(), 0, []
        for begin, end in matches:
            pieces += [data[at:begin], data[begin:end]]
            at = end
        return [piece.decode() for piece in [*pieces, data[at:]] if piece]

    def compare(self, patterns, texts_to_try):
        requests, expected = [], []
        for pattern in patterns:
            try:
                split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
            except Exception:  # the library raises nothing more particular
                continue
            for text in texts_to_try:
                try:
                    pieces = [piece for piece, _ in split.pre_tokenize_str(text)] if text else []
                except BaseException as error:  # Oniguruma gave up
                    if type(error).__name__ != "PanicException":
                        raise
                    continue
                requests.append({"pattern": pattern, "text": text})
                expected.append(pieces)
        faults, tried = [], 0
        for request, answer, wanted in zip(requests, ask(self.ANY_TOKENIZER, requests), expected):
            # Refused by name, or given up: see regex_syntax.h and regex.h.
            if re.search(r"with \(\?i\)|may match nothing|limit exceeded", answer.get("error", "")):
                continue
            tried += 1
            ours = self.pieces_of(request["text"], answer["matches"]) if "matches" in answer else answer["error"]
            if ours != wanted:
                faults.append(f"\n  {request!r}\n    ours: {ours!a}\n    theirs: {wanted!a}")
        if faults:
            self.fail(f"{len(faults)} of {len(requests)} differ:" + "".join(faults[:SHOWN]))
        return tried / len(requests)

    def test_patterns_of_models(self):
        some = plain_texts()
        self.compare(sorted({pattern for rule in patterns.RULES.values() for pattern in rule}), some)

    def test_properties_over_all_of_unicode(self):
        everything = texts.characters_by_block()
        self.compare(patterns.PROPERTIES, [everything[at:at + 4000] for at in range(0, len(everything), 4000)])

    def test_every_construct(self):
        self.compare(patterns.FIXED, plain_texts() + patterns.short_texts(texts.random.Random(SEED), 100))

    def test_random_patterns(self):
        source = texts.random.Random(SEED)
        made = [patterns.random_pattern(source) for _ in range(RANDOM_TEXTS * 4)]
        # Of the others most repeat what may match nothing.
        self.assertGreater(self.compare(made, patterns.short_texts(source, 25)), 0.85)

    def test_rules_of_gguf_files(self):
        for name, rule in patterns.RULES.items():
            with self.subTest(name=name):
                cut = tokenizers.pre_tokenizers.Sequence(
                    [tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in rule])
                requests = [{"rule": name, "text": text} for text in plain_texts() if text]
                expected = [{"pieces": [piece for piece, _ in cut.pre_tokenize_str(request["text"])]} for request in requests]
                self.expect(self.ANY_TOKENIZER, requests, expected)


class SentencePieceTest(ReferenceTest):
    """Against the sentencepiece library of Python's package index, which reads the same tokenizer.model."""

    def compare(self, model):
        library = sentencepiece.SentencePieceProcessor(model_proto=model)
        requests, expected = [], []
        for text in plain_texts():
            ids = library.encode(text)
            for add_special in (False, True):
                requests.append({"text": text, "add_special": add_special, "parse_special": False})
                expected.append({"ids": [library.bos_id()] * add_special + ids})
                # The unknown token decodes to a sign of its own there, and a model without white space at the ends of lines
                # loses all that a text begins with.
                if library.unk_id() not in ids and not text.startswith(documents.MARKER):
                    expected[-1]["plain"] = library.decode(ids)
        self.expect({"tokenizer.model": model}, requests, expected, functools.partial(self.equally_likely, library))

    @staticmethod
    def equally_likely(library, ours, theirs):
        """Whether a unigram model finds both cuts of a text equally likely: then either is right."""
        def score(ids):
            return sum(library.get_score(token) for token in ids)
        return (len(ours["ids"]) == len(theirs["ids"]) and library.decode(ours["ids"]) == library.decode(theirs["ids"])
                and abs(score(ours["ids"]) - score(theirs["ids"])) < 1e-3)

    def test_bpe(self):
        self.compare(trained_sentencepiece_model())

    def test_bpe_with_unknown_characters(self):
        self.compare(trained_sentencepiece_model(byte_fallback=False, add_dummy_prefix=False))

    def test_unigram_with_normalization(self):
        self.compare(trained_sentencepiece_model(model_type="unigram", normalization_rule_name="nmt_nfkc",
                                                 remove_extra_whitespaces=True, vocab_size=1000))

    def test_released_files(self):
        for name in ("llama2/tokenizer.model", "mistral/tokenizer.model.v1", "small/test_model.model"):
            with self.subTest(name=name):
                self.compare(shared_file(name).read_bytes())


class SkipPrintingResult(unittest.TextTestResult):
    """Names skipped tests as GoogleTest does, for tests/run.sh to list them."""

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"{test.id()}: Skipped\n{reason}\n[  SKIPPED ] {test.id().removeprefix('__main__.')} (0 ms)", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = sys.argv.pop(1)
    unittest.main(testRunner=unittest.TextTestRunner(resultclass=SkipPrintingResult))
