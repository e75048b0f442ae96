// Metadata as other writers put it down: numbers in any type, one number for all layers as a list.

#include <cmath>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/small_gguf.h"
#include "tests/engine/checkpoint/test_directory.h"

namespace mambad::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class GgufMetadata : public ::testing::Test {
 protected:
  // The small model with `keys` written by `write` instead.
  absl::StatusOr<std::unique_ptr<const Checkpoint>> Open(
      const std::set<std::string>& keys, const std::function<void(GgufWriter&)>& write) {
    GgufWriter writer;
    WriteSmallGgufMetadata(writer, keys);
    write(writer);
    WriteSmallGgufTensors(writer);
    directory_.Write("model.gguf", writer.Finish());
    return Checkpoint::Open(directory_ / "model.gguf");
  }
  std::string Error(const std::set<std::string>& keys,
                    const std::function<void(GgufWriter&)>& write,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto opened = Open(keys, write);
    EXPECT_EQ(opened.status().code(), code) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("model.gguf"));
    return std::string(opened.status().message());
  }

  TestDirectory directory_;
};

TEST_F(GgufMetadata, WholeNumbersOfEveryType) {
  const std::string key = "llama.attention.head_count_kv";
  const std::vector<std::pair<uint32_t, std::string>> ones = {
      {kGgufUint8, Raw<uint8_t>(1)},   {kGgufInt8, Raw<int8_t>(1)},
      {kGgufUint16, Raw<uint16_t>(1)}, {kGgufInt16, Raw<int16_t>(1)},
      {kGgufUint32, Raw<uint32_t>(1)}, {kGgufInt32, Raw<int32_t>(1)},
      {kGgufUint64, Raw<uint64_t>(1)}, {kGgufInt64, Raw<int64_t>(1)},
      {kGgufFloat32, Raw<float>(1)},   {kGgufFloat64, Raw<double>(1)},
      {kGgufBool, Raw<uint8_t>(1)}};
  for (const auto& [type, bytes] : ones) {
    SCOPED_TRACE(type);
    const auto opened = Open({key}, [&](GgufWriter& writer) { writer.Value(key, type, bytes); });
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->config().attention.key_value_heads, 1);
  }
}

TEST_F(GgufMetadata, NumbersWithFractionsOfEveryType) {
  const std::string key = "llama.rope.freq_base";
  const auto theta = [&](uint32_t type, const std::string& bytes) {
    const auto opened = Open({key}, [&](GgufWriter& writer) { writer.Value(key, type, bytes); });
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? (*opened)->config().attention.rope.theta : 0;
  };
  EXPECT_EQ(theta(kGgufFloat64, Raw<double>(500000.5)), 500000.5);
  EXPECT_EQ(theta(kGgufUint32, Raw<uint32_t>(500000)), 500000);
  EXPECT_EQ(theta(kGgufInt64, Raw<int64_t>(500000)), 500000);
}

TEST_F(GgufMetadata, OneNumberForAllLayersAsAList) {
  const std::set<std::string> keys = {"llama.attention.head_count", "llama.feed_forward_length"};
  const auto opened = Open(keys, [](GgufWriter& writer) {
    writer.Numbers<int32_t>("llama.attention.head_count", kGgufInt32, {2, 2, 2});
    writer.Numbers<float>("llama.feed_forward_length", kGgufFloat32, {32});
  });
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->config().attention.query_heads, 2);
  EXPECT_EQ((*opened)->config().mlp_width, 32);
  EXPECT_THAT(Error(
                  {"llama.attention.head_count"},
                  [](GgufWriter& writer) {
                    writer.Numbers<int32_t>("llama.attention.head_count", kGgufInt32, {2, 4});
                  },
                  absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("llama.attention.head_count"), HasSubstr("other layers")));
  EXPECT_THAT(Error({"llama.attention.head_count"},
                    [](GgufWriter& writer) {
                      writer.Numbers<int32_t>("llama.attention.head_count", kGgufInt32, {});
                    }),
              HasSubstr("a list of numbers found, a number expected"));
}

TEST_F(GgufMetadata, ListsOfNumbersOfEveryType) {
  const auto opened = Open({}, [](GgufWriter& writer) {
    writer.Numbers<int32_t>("tokenizer.ggml.scores", kGgufInt32, {0, 0, 0, -1, -2, -3});
    writer.Numbers<uint8_t>("tokenizer.ggml.token_type", kGgufUint8, {2, 3, 3, 1, 1, 1});
    writer.Numbers<uint32_t>("tokenizer.ggml.merges", kGgufUint32, {});
    writer.Value("tokenizer.ggml.eos_token_id", kGgufInt64, Raw<int64_t>(2));
    writer.Value("tokenizer.ggml.add_bos_token", kGgufInt32, Raw<int32_t>(1));
    writer.Value("tokenizer.ggml.add_eos_token", kGgufInt8, Raw<int8_t>(1));
  });
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->text().scores, ElementsAre(0, 0, 0, -1, -2, -3));
  EXPECT_THAT((*opened)->text().piece_types, ElementsAre(2, 3, 3, 1, 1, 1));
  EXPECT_THAT((*opened)->text().merges, ElementsAre());
  EXPECT_EQ((*opened)->text().eos_id, 2);
  EXPECT_EQ((*opened)->text().add_bos, true);
  EXPECT_EQ((*opened)->text().add_eos, true);
}

// ---- ends of text ------------------------------------------------------------------------------

TEST_F(GgufMetadata, EndsAreThoseOfTheKeysAndThoseThatArePieces) {
  const auto opened = Open({"tokenizer.ggml.tokens"}, [](GgufWriter& writer) {
    writer.Texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "<|im_end|>", "a", "b", "c"});
    writer.Numbers<uint8_t>("tokenizer.ggml.token_type", kGgufUint8, {2, 3, 3, 1, 1, 1});
    writer.Number("tokenizer.ggml.eos_token_id", 3);
    writer.Number("tokenizer.ggml.eot_token_id", 4);
    writer.Number("tokenizer.ggml.eom_token_id", 5);
  });
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->config().eos_ids, UnorderedElementsAre(2, 3, 4, 5));
}

TEST_F(GgufMetadata, ScoredPiecesBeginAndEndAtTheirUsualPlaces) {
  const auto with = [&](const std::vector<uint8_t>& types) {
    return Open({"tokenizer.ggml.tokens"}, [&](GgufWriter& writer) {
      writer.Texts("tokenizer.ggml.tokens", {"?", "begin", "end", "a", "b", "c"});
      writer.Numbers<uint8_t>("tokenizer.ggml.token_type", kGgufUint8, types);
    });
  };
  const auto opened = with({2, 3, 3, 1, 1, 1});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->text().bos_id, 1);
  EXPECT_EQ((*opened)->config().bos_id, 1);
  EXPECT_EQ((*opened)->text().eos_id, 2);
  EXPECT_THAT((*opened)->config().eos_ids, ElementsAre(2));
  // Only where control pieces stand there.
  const auto plain = with({1, 1, 1, 1, 1, 1});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->text().bos_id, -1);
  EXPECT_THAT((*plain)->config().eos_ids, ElementsAre());
}

// ---- what changes answers ----------------------------------------------------------------------

TEST_F(GgufMetadata, WindowsAreThoseOfTheArchitecturesThatLookAtThem) {
  const auto llama =
      Open({}, [](GgufWriter& writer) { writer.Number("llama.attention.sliding_window", 8); });
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_EQ((*llama)->config().SlidingWindow(0), 8);
  const auto qwen2 = Open({"general.architecture"}, [](GgufWriter& writer) {
    writer.Text("general.architecture", "qwen2");
    writer.Number("qwen2.block_count", 1);
    writer.Number("qwen2.context_length", 64);
    writer.Number("qwen2.embedding_length", kSmallGgufWidth);
    writer.Number("qwen2.feed_forward_length", 32);
    writer.Number("qwen2.attention.head_count", 2);
    writer.Number("qwen2.attention.head_count_kv", 1);
    writer.Number("qwen2.attention.sliding_window", 8);
  });
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_EQ((*qwen2)->config().SlidingWindow(0), 0);
}

TEST_F(GgufMetadata, RotationsThatAreNotComputedAreRefused) {
  EXPECT_THAT(Error(
                  {}, [](GgufWriter& writer) { writer.Number("llama.rope.dimension_count", 4); },
                  absl::StatusCode::kUnimplemented),
              HasSubstr("rope.dimension_count"));
  EXPECT_THAT(Error(
                  {},
                  [](GgufWriter& writer) {
                    writer.Text("llama.rope.scaling.type", "yarn");
                    writer.Float("llama.rope.scaling.factor", 4);
                    writer.Float("llama.rope.scaling.yarn_ext_factor", 0.5f);
                  },
                  absl::StatusCode::kUnimplemented),
              HasSubstr("yarn_ext_factor"));
}

TEST_F(GgufMetadata, FingerprintsAreOfWhatComputesAlone) {
  const auto fingerprint = [&](const std::set<std::string>& keys,
                               const std::function<void(GgufWriter&)>& write) {
    const auto opened = Open(keys, write);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? (*opened)->fingerprint() : "";
  };
  const std::string plain = fingerprint({}, [](GgufWriter&) {});
  EXPECT_EQ(fingerprint({},
                        [](GgufWriter& writer) {
                          writer.Text("general.name", "another name");
                          writer.Text("tokenizer.chat_template", "{{ messages }}");
                          writer.Number("quantize.imatrix.entries_count", 7);
                        }),
            plain);
  EXPECT_NE(fingerprint({"llama.rope.freq_base"},
                        [](GgufWriter& writer) { writer.Float("llama.rope.freq_base", 20000); }),
            plain);
}

TEST_F(GgufMetadata, TablesOfRotationsDoNoHarm) {
  const auto opened = Open({}, [](GgufWriter& writer) {
    writer.Float32("blk.0.attn_rot_embd", {4}, std::vector<float>(4, 1));
  });
  EXPECT_TRUE(opened.ok()) << opened.status();
}

TEST_F(GgufMetadata, WhatIsNoNumberIsRefused) {
  const std::string key = "llama.context_length";
  const auto with = [&](uint32_t type, const std::string& bytes) {
    return Error({key}, [&](GgufWriter& writer) { writer.Value(key, type, bytes); });
  };
  EXPECT_THAT(with(kGgufString, RawString("64")), HasSubstr(key + ": a text found"));
  EXPECT_THAT(with(kGgufFloat32, Raw<float>(64.5)), HasSubstr(key + ": 64.5 found"));
  EXPECT_THAT(with(kGgufInt32, Raw<int32_t>(-1)), HasSubstr(key + ": -1 found"));
  EXPECT_THAT(with(kGgufUint64, Raw<uint64_t>(~uint64_t{0})), HasSubstr(key + ": 9.2"));
  EXPECT_THAT(with(kGgufFloat64, Raw<double>(NAN)), HasSubstr(key + ": nan found"));
  EXPECT_THAT(Error({"tokenizer.ggml.tokens"},
                    [](GgufWriter& writer) {
                      writer.Numbers<int32_t>("tokenizer.ggml.tokens", kGgufInt32, {1});
                    }),
              HasSubstr("a list of numbers found, a list of texts expected"));
}

}  // namespace
}  // namespace mambad::checkpoint
