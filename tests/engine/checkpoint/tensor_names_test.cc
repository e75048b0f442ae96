// Names under which other programs store the same tensors.

#include "engine/checkpoint/tensor_names.h"

#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

const nlohmann::json kLlama = {{"model_type", "llama"}};
const nlohmann::json kTied = {{"model_type", "llama"}, {"tie_word_embeddings", true}};
const nlohmann::json kUntied = {{"model_type", "llama"}, {"tie_word_embeddings", false}};
const nlohmann::json kMamba = {{"model_type", "mamba"}};
const nlohmann::json kStateSpaces = {{"d_model", 8}};

TEST(LayoutNames, LeaveTheLayoutsOwnAlone) {
  EXPECT_THAT(
      LayoutNames({"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}, kTied),
      IsEmpty());
  EXPECT_THAT(LayoutNames({"backbone.embeddings.weight", "backbone.norm_f.weight"}, kMamba),
              IsEmpty());
  EXPECT_THAT(LayoutNames({"backbone.embedding.weight", "lm_head.weight"}, kStateSpaces),
              IsEmpty());
  EXPECT_THAT(LayoutNames({}, kLlama), IsEmpty());
}

TEST(LayoutNames, BaseModelsLackThePrefix) {
  EXPECT_THAT(
      LayoutNames(
          {"embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight", "lm_head.weight"},
          kLlama),
      UnorderedElementsAre(Pair("embed_tokens.weight", "model.embed_tokens.weight"),
                           Pair("layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
                           Pair("norm.weight", "model.norm.weight")));
  EXPECT_THAT(LayoutNames({"embedding.weight", "layers.0.norm.weight", "norm_f.weight"}, kMamba),
              UnorderedElementsAre(Pair("embedding.weight", "backbone.embeddings.weight"),
                                   Pair("layers.0.norm.weight", "backbone.layers.0.norm.weight"),
                                   Pair("norm_f.weight", "backbone.norm_f.weight")));
}

TEST(LayoutNames, WrappersComeOff) {
  EXPECT_THAT(LayoutNames({"module.model.norm.weight", "module.lm_head.weight"}, kUntied),
              UnorderedElementsAre(Pair("module.model.norm.weight", "model.norm.weight"),
                                   Pair("module.lm_head.weight", "lm_head.weight")));
  EXPECT_THAT(LayoutNames({"_orig_mod.model.norm.weight"}, kLlama),
              UnorderedElementsAre(Pair("_orig_mod.model.norm.weight", "model.norm.weight")));
  // Whichever was put on first.
  for (const std::string wrapped : {"module._orig_mod.", "_orig_mod.module."}) {
    EXPECT_THAT(LayoutNames({wrapped + "model.norm.weight"}, kLlama),
                UnorderedElementsAre(Pair(wrapped + "model.norm.weight", "model.norm.weight")));
  }
  // Not where it is one of several names.
  EXPECT_THAT(LayoutNames({"module.model.norm.weight", "model.embed_tokens.weight"}, kLlama),
              IsEmpty());
}

TEST(LayoutNames, MambasEmbeddingUnderEitherName) {
  EXPECT_THAT(
      LayoutNames({"backbone.embedding.weight", "backbone.norm_f.weight"}, kMamba),
      UnorderedElementsAre(Pair("backbone.embedding.weight", "backbone.embeddings.weight")));
  EXPECT_THAT(
      LayoutNames({"backbone.embeddings.weight", "lm_head.weight"}, kStateSpaces),
      UnorderedElementsAre(Pair("backbone.embeddings.weight", "backbone.embedding.weight")));
  EXPECT_THAT(LayoutNames({"backbone.embedding.weight", "backbone.embeddings.weight"}, kMamba),
              IsEmpty());
}

TEST(LayoutNames, ATiedEmbeddingStoredAsTheHead) {
  for (const nlohmann::json& config : {kLlama, kTied}) {
    EXPECT_THAT(LayoutNames({"model.norm.weight", "lm_head.weight"}, config),
                UnorderedElementsAre(Pair("lm_head.weight", "model.embed_tokens.weight")));
  }
  EXPECT_THAT(LayoutNames({"model.norm.weight", "lm_head.weight"}, kUntied), IsEmpty());
  EXPECT_THAT(LayoutNames({"backbone.norm_f.weight", "lm_head.weight"}, kMamba),
              UnorderedElementsAre(Pair("lm_head.weight", "backbone.embeddings.weight")));
  EXPECT_THAT(LayoutNames({"backbone.norm_f.weight", "lm_head.weight"}, kStateSpaces),
              UnorderedElementsAre(Pair("lm_head.weight", "backbone.embedding.weight")));
}

}  // namespace
}  // namespace mambad::checkpoint
