// Directories that are not what they should be: one line with file, tensor, expected and found.

#include "engine/checkpoint/model_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "engine/checkpoint/dequantise.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::checkpoint {
namespace {

using support::NamedTensor;
using support::RandomModelOptions;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ModelDirectory : public ::testing::Test {
 protected:
  ModelDirectory() { options_.layers = 2; }

  void Save() { ASSERT_TRUE(support::SaveRandomCheckpoint(directory_.path(), options_).ok()); }
  // Saves with other tensors than the configuration says.
  void SaveTensors(const std::vector<NamedTensor>& tensors, int64_t shard_bytes = 0) {
    Save();
    std::vector<TensorToWrite> to_write;
    for (const NamedTensor& tensor : tensors) {
      to_write.push_back(
          {tensor.name,
           StorageType::kFloat32,
           tensor.shape,
           {reinterpret_cast<const std::byte*>(tensor.values.data()), tensor.values.size() * 4}});
    }
    ASSERT_TRUE(WriteShardedSafetensors(directory_.path(), to_write, shard_bytes).ok());
  }
  // In model.safetensors, from F32: as many bytes, of a type that is not read.
  void StoreAsIntegers(const std::string& tensor) {
    std::string file = directory_.Read("model.safetensors");
    const std::string entry = "\"" + tensor + "\":{\"dtype\":\"";
    const size_t at = file.find(entry + "F32\"");
    ASSERT_NE(at, std::string::npos) << tensor;
    directory_.Write("model.safetensors", file.replace(at + entry.size(), 3, "I32"));
  }
  std::string Error(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto opened = Checkpoint::Open(directory_.path());
    EXPECT_EQ(opened.status().code(), code) << opened.status();
    const std::string message(opened.status().message());
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_THAT(message, HasSubstr(directory_.path()));
    return message;
  }

  TestDirectory directory_;
  RandomModelOptions options_;
};

TEST_F(ModelDirectory, MissingTensor) {
  std::vector<NamedTensor> tensors = support::DrawTensors(options_);
  std::erase_if(tensors,
                [](const auto& t) { return t.name == "model.layers.1.self_attn.k_proj.weight"; });
  SaveTensors(tensors);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.layers.1.self_attn.k_proj.weight"),
                             HasSubstr("[32, 64] expected"), HasSubstr("none found")));
}

TEST_F(ModelDirectory, ExtraTensor) {
  std::vector<NamedTensor> tensors = support::DrawTensors(options_);
  tensors.push_back({"model.layers.2.mlp.up_proj.weight", {1, 2}, {0, 0}});
  SaveTensors(tensors);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.safetensors"),
                             HasSubstr("model.layers.2.mlp.up_proj.weight"), HasSubstr("[1, 2]")));
}

TEST_F(ModelDirectory, KnownLeftoversAreNoPartOfTheModel) {
  Save();
  const auto without = Checkpoint::Open(directory_.path());
  ASSERT_TRUE(without.ok()) << without.status();
  std::vector<NamedTensor> tensors = support::DrawTensors(options_);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, {0, 0}});
  tensors.push_back({"model.rotary_emb.inv_freq", {2}, {0, 0}});
  SaveTensors(tensors);
  const auto with = Checkpoint::Open(directory_.path());
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ((*with)->fingerprint(), (*without)->fingerprint());
}

TEST_F(ModelDirectory, WrongShape) {
  std::vector<NamedTensor> tensors = support::DrawTensors(options_);
  for (NamedTensor& tensor : tensors) {
    if (tensor.name == "model.layers.0.mlp.down_proj.weight")
      std::swap(tensor.shape[0], tensor.shape[1]);
  }
  SaveTensors(tensors);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.safetensors"),
                             HasSubstr("model.layers.0.mlp.down_proj.weight"),
                             HasSubstr("[96, 64] found"), HasSubstr("[64, 96] expected")));
}

TEST_F(ModelDirectory, TensorOfATypeThatIsNotRead) {
  Save();
  StoreAsIntegers("model.norm.weight");
  EXPECT_THAT(Error(absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("\"I32\"")));
  // Under another program's name, too.
  std::vector<NamedTensor> tensors = support::DrawTensors(options_);
  for (NamedTensor& tensor : tensors) tensor.name.insert(0, "module.");
  SaveTensors(tensors);
  StoreAsIntegers("module.model.norm.weight");
  EXPECT_THAT(Error(absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("\"I32\"")));
}

TEST_F(ModelDirectory, UntiedHeadWithoutHead) {
  options_.tied_head = true;
  Save();
  const auto tied = Checkpoint::Open(directory_.path());
  ASSERT_TRUE(tied.ok());
  const Parameter* head = (*tied)->table().Find(Role::kHead, -1);
  EXPECT_TRUE(head == nullptr || !(*tied)->Has(*head));
  std::string config = directory_.Read("config.json");
  const size_t at = config.find("\"tie_word_embeddings\": true");
  ASSERT_NE(at, std::string::npos);
  directory_.Write("config.json", config.replace(at, 27, "\"tie_word_embeddings\": false"));
  EXPECT_THAT(Error(), HasSubstr("lm_head.weight"));
}

TEST_F(ModelDirectory, ATiedHeadThatDiffersFromItsEmbeddingIsToldOf) {
  for (const Family family : {Family::kLlama, Family::kMamba}) {
    options_.family = family;
    options_.tied_head = true;
    std::vector<NamedTensor> tensors = support::DrawTensors(options_);
    const auto embedding = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
      return tensor.name.find("embed") != std::string::npos;
    });
    ASSERT_NE(embedding, tensors.end());
    NamedTensor head = *embedding;
    head.name = "lm_head.weight";
    tensors.push_back(head);
    SaveTensors(tensors);
    const auto equal = Checkpoint::Open(directory_.path());
    ASSERT_TRUE(equal.ok()) << equal.status();
    EXPECT_THAT((*equal)->config().warnings, ::testing::IsEmpty());
    tensors.back().values[0] += 1;
    SaveTensors(tensors);
    const auto other = Checkpoint::Open(directory_.path());
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_THAT((*other)->config().warnings,
                ::testing::ElementsAre(AllOf(HasSubstr("config.json"), HasSubstr("lm_head.weight"),
                                             HasSubstr("tie_word_embeddings"))));
  }
}

TEST_F(ModelDirectory, AHeadOfItsOwnIsNothingToTellOf) {
  Save();
  const auto opened = Checkpoint::Open(directory_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_FALSE((*opened)->config().tied_head);
  EXPECT_THAT((*opened)->config().warnings, ::testing::IsEmpty());
}

TEST_F(ModelDirectory, MissingFiles) {
  Error(absl::StatusCode::kNotFound);
  Save();
  std::filesystem::rename(directory_ / "model.safetensors", directory_ / "pytorch_model.bin");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("pytorch_model.bin")));
  directory_.Write("model.safetensors", "");
  EXPECT_THAT(Error(), HasSubstr("model.safetensors"));
}

TEST_F(ModelDirectory, PathsThatAreNoModel) {
  EXPECT_EQ(Checkpoint::Open("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Checkpoint::Open(directory_ / "none").status().code(), absl::StatusCode::kNotFound);
  directory_.Write("weights.bin", "x");
  EXPECT_EQ(Checkpoint::Open(directory_ / "weights.bin").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelDirectory, APipeDoesNotStopTheStart) {
  Save();
  ASSERT_EQ(unlink((directory_ / "config.json").c_str()), 0);
  ASSERT_EQ(mkfifo((directory_ / "config.json").c_str(), 0600), 0);
  EXPECT_THAT(Error(), HasSubstr("config.json"));
}

// ---- shards ------------------------------------------------------------------------------------

class Shards : public ModelDirectory {
 protected:
  Shards() { options_.shards = 3; }
  nlohmann::json Index() {
    return nlohmann::json::parse(directory_.Read("model.safetensors.index.json"));
  }
  void WriteIndex(const nlohmann::json& index) {
    directory_.Write("model.safetensors.index.json", index.dump());
  }
};

TEST_F(Shards, NamesThatReachElsewhere) {
  Save();
  for (const char* name :
       {"../model.safetensors", "/etc/passwd", "/tmp/x.safetensors", "a/../../b.safetensors", "",
        "a//b.safetensors", "a/.b.safetensors", "././b.safetensors", ".safetensors", "..",
        "model.bin", "model.safetensors.index.json"}) {
    nlohmann::json index = Index();
    index["weight_map"]["model.norm.weight"] = name;
    WriteIndex(index);
    EXPECT_THAT(Error(), AllOf(HasSubstr("index.json"), HasSubstr("model.norm.weight"))) << name;
    Save();
  }
  nlohmann::json index = Index();
  index["weight_map"]["model.norm.weight"] = std::string("model\0.safetensors", 18);
  WriteIndex(index);
  Error();
  index["weight_map"]["model.norm.weight"] = 3;
  WriteIndex(index);
  Error();
  for (const char* text : {"{}", "{\"weight_map\": []}", "{\"weight_map\": {}}", "[]", ""}) {
    directory_.Write("model.safetensors.index.json", text);
    EXPECT_THAT(Error(), HasSubstr("index.json")) << text;
  }
}

TEST_F(Shards, AFileThatIsNotAmongThemIsNotServedByAnother) {
  Save();
  const std::string shard = Index()["weight_map"]["model.norm.weight"];
  EXPECT_TRUE(Checkpoint::Open(directory_ / shard).ok());
  const auto refused = [&](const std::string& name) {
    std::filesystem::copy_file(directory_ / shard, directory_ / name);
    EXPECT_TRUE(Checkpoint::Open(directory_.path()).ok());
    const absl::Status status = Checkpoint::Open(directory_ / name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(name), HasSubstr("not among")));
  };
  refused("other.safetensors");
  std::filesystem::remove(directory_ / "other.safetensors");
  std::filesystem::remove(directory_ / "model.safetensors.index.json");
  EXPECT_TRUE(Checkpoint::Open(directory_ / shard).ok());
  refused("adapter_model.safetensors");
  refused("consolidated.safetensors");
}

TEST_F(Shards, InFoldersBelow) {
  Save();
  nlohmann::json index = Index();
  std::filesystem::create_directory(directory_ / "weights");
  std::set<std::string> moved;
  std::string beside;  // its index still
  for (auto& [tensor, file] : index["weight_map"].items()) {
    const std::string name = file;
    const bool first = name.find("-00001-of-") != std::string::npos;
    if (!first && moved.insert(name).second) {
      std::filesystem::rename(directory_ / name, directory_ / ("weights/" + name));
    }
    if (first) beside = name;
    file = (first ? "./" : "weights/") + name;
  }
  WriteIndex(index);
  for (const std::string& path : {directory_.path(), directory_ / beside}) {
    const auto opened = Checkpoint::Open(path);
    EXPECT_TRUE(opened.ok()) << opened.status();
  }
  EXPECT_FALSE(moved.empty());
}

TEST_F(Shards, MissingShard) {
  Save();
  const std::string name = Index()["weight_map"]["model.norm.weight"];
  ASSERT_EQ(unlink((directory_ / name).c_str()), 0);
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              AllOf(HasSubstr(name), HasSubstr("missing"), HasSubstr("index.json")));
}

TEST_F(Shards, AWholeFileWinsOverAnIndexThatStayedBehind) {
  options_.shards = 1;
  Save();
  nlohmann::json index;
  index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors";
  WriteIndex(index);
  EXPECT_TRUE(Checkpoint::Open(directory_.path()).ok());
}

TEST_F(Shards, WithoutTheirIndex) {
  Save();
  const std::string name = Index()["weight_map"]["model.norm.weight"];
  std::filesystem::remove(directory_ / "model.safetensors.index.json");
  EXPECT_TRUE(Checkpoint::Open(directory_.path()).ok());
  EXPECT_TRUE(Checkpoint::Open(directory_ / name).ok());
  std::filesystem::remove(directory_ / name);
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("\"" + name + "\" missing"));
}

TEST_F(ModelDirectory, WeightsUnderAnotherName) {
  Save();
  std::filesystem::rename(directory_ / "model.safetensors", directory_ / "model.fp16.safetensors");
  directory_.Write("consolidated.safetensors", "another layout");
  EXPECT_TRUE(Checkpoint::Open(directory_.path()).ok());
  directory_.Write("model.int8.safetensors", "x");
  EXPECT_THAT(Error(),
              AllOf(HasSubstr("model.fp16.safetensors"), HasSubstr("model.int8.safetensors")));
  std::filesystem::remove(directory_ / "model.int8.safetensors");
  std::filesystem::remove(directory_ / "model.fp16.safetensors");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("maker's own format"));
}

TEST_F(ModelDirectory, WeightsThatAreNotSafetensors) {
  const auto with = [&](const std::string& name) {
    std::filesystem::remove_all(directory_.path());
    Save();
    std::filesystem::remove(directory_ / "model.safetensors");
    directory_.Write(name, "x");
    return Error(absl::StatusCode::kNotFound);
  };
  EXPECT_THAT(with("pytorch_model.bin"),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("trainer convert"),
                    HasSubstr("input: " + directory_.path())));
  EXPECT_THAT(with("pytorch_model-00001-of-00002.bin"), HasSubstr("trainer convert"));
  EXPECT_THAT(with("consolidated.00.pth"), HasSubstr("trainer convert"));
  EXPECT_THAT(with("tf_model.h5"), HasSubstr("not read"));
  EXPECT_THAT(with("model.onnx"), HasSubstr("not read"));
  EXPECT_THAT(with("openvino_model.xml"), AllOf(HasSubstr("OpenVINO"), HasSubstr("safetensors")));
  EXPECT_THAT(with("model.safetensors.part"), HasSubstr("unfinished download"));
  EXPECT_THAT(with("README.md"), HasSubstr("a configuration without weights"));
}

TEST_F(ModelDirectory, AHybridWithoutItsConfiguration) {
  options_.family = Family::kHybrid;
  Save();
  ASSERT_TRUE(Checkpoint::Open(directory_.path()).ok());
  std::filesystem::remove(directory_ / "mamba_config.json");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), AllOf(HasSubstr("mamba_config.json: missing"),
                                                        HasSubstr(".mamba."), HasSubstr("hybrid")));
}

TEST_F(ModelDirectory, QuantisedByOthers) {
  Save();
  const nlohmann::json plain = nlohmann::json::parse(directory_.Read("config.json"));
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json config = plain;
    config[key] = value;
    directory_.Write("config.json", config.dump());
    return Error(absl::StatusCode::kUnimplemented);
  };
  for (const char* method : {"awq", "gptq", "bitsandbytes", "fp8", "compressed-tensors", "exl2"}) {
    EXPECT_THAT(with("quantization_config", {{"quant_method", method}, {"bits", 4}}),
                AllOf(HasSubstr("config.json"), HasSubstr(method), HasSubstr("GGUF")));
  }
  EXPECT_THAT(with("compression_config", {{"quant_method", "compressed-tensors"}}),
              HasSubstr("compressed-tensors"));
  EXPECT_THAT(with("quantization", {{"group_size", 64}, {"bits", 4}}), HasSubstr("MLX"));
}

TEST_F(ModelDirectory, TensorsThatTellHowTheyWereQuantised) {
  const std::pair<const char*, const char*> marks[] = {
      {"qweight", "GPTQ or AWQ"},
      {"q_weight", "EXL2"},
      {"trellis", "EXL3"},
      {"SCB", "bitsandbytes"},
      {"weight.quant_state.bitsandbytes__nf4", "bitsandbytes"},
      {"weight_packed", "compressed-tensors"},
      {"weight_scale", "FP8 or INT8"},
      {"weight_scale_inv", "FP8 or INT8"}};
  for (const auto& [mark, method] : marks) {
    const std::string name = std::string("model.layers.0.mlp.up_proj.") + mark;
    std::vector<NamedTensor> tensors = support::DrawTensors(options_);
    tensors.push_back({name, {1}, {0}});
    SaveTensors(tensors);
    const auto told = AllOf(HasSubstr(name), HasSubstr(method));
    EXPECT_THAT(Error(absl::StatusCode::kUnimplemented), told);
    StoreAsIntegers(name);  // as most of them are
    EXPECT_THAT(Error(absl::StatusCode::kUnimplemented), told);
  }
}

// The model of `names` is the one of the layout's own names.
TEST_F(ModelDirectory, TensorsUnderOtherNames) {
  const auto opens_as = [&](const auto& rename) {
    Save();
    const auto original = Checkpoint::Open(directory_.path());
    ASSERT_TRUE(original.ok()) << original.status();
    const std::string fingerprint = (*original)->fingerprint();
    std::vector<NamedTensor> tensors = support::DrawTensors(options_);
    for (NamedTensor& tensor : tensors) tensor.name = rename(tensor.name);
    SaveTensors(tensors);
    const auto opened = Checkpoint::Open(directory_.path());
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->fingerprint(), fingerprint);
  };
  const auto without = [](const std::string& prefix) {
    return [prefix](const std::string& name) {
      return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
    };
  };
  const auto replaced = [](const std::string& from, const std::string& to) {
    return [from, to](const std::string& name) { return name == from ? to : name; };
  };
  opens_as(without("model."));
  options_.tied_head = true;
  opens_as(replaced("model.embed_tokens.weight", "lm_head.weight"));
  options_.family = Family::kMamba;
  opens_as(without("backbone."));
  opens_as(replaced("backbone.embeddings.weight", "backbone.embedding.weight"));
  options_.layout = Layout::kStateSpaces;
  opens_as(replaced("backbone.embedding.weight", "backbone.embeddings.weight"));
}

TEST_F(Shards, ShardThatIsALinkToItself) {
  Save();
  const std::string name = Index()["weight_map"]["model.norm.weight"];
  ASSERT_EQ(unlink((directory_ / name).c_str()), 0);
  ASSERT_EQ(symlink(name.c_str(), (directory_ / name).c_str()), 0);
  const auto opened = Checkpoint::Open(directory_.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr(name));
}

TEST_F(Shards, TensorInAnotherFileThanTheIndexSays) {
  Save();
  nlohmann::json index = Index();
  const std::string right = index["weight_map"]["model.norm.weight"];
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (file != right) index["weight_map"]["model.norm.weight"] = file;
  }
  WriteIndex(index);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.norm.weight"), HasSubstr(right)));
}

TEST_F(Shards, TensorThatIsNowhere) {
  Save();
  nlohmann::json index = Index();
  index["weight_map"]["model.other.weight"] = index["weight_map"]["model.norm.weight"];
  WriteIndex(index);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.other.weight"), HasSubstr("not found")));
}

TEST_F(Shards, TensorsOfTypesThatAreNotReadMayStandInTheIndex) {
  Save();
  const std::string header =
      R"({"model.position_ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})";
  const uint64_t length = header.size();
  directory_.Write("more.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) +
                                           header + std::string(8, '\0'));
  nlohmann::json index = Index();
  index["weight_map"]["model.position_ids"] = "more.safetensors";
  WriteIndex(index);
  const auto opened = Checkpoint::Open(directory_.path());
  EXPECT_TRUE(opened.ok()) << opened.status();
  index["weight_map"]["model.other_ids"] = "more.safetensors";
  WriteIndex(index);
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.other_ids"), HasSubstr("not found")));
}

TEST_F(Shards, TensorInTwoFiles) {
  Save();
  nlohmann::json index = Index();
  const std::string name = index["weight_map"]["model.norm.weight"];
  std::filesystem::copy_file(directory_ / name, directory_ / "more.safetensors");
  index["weight_map"]["model.other.weight"] = "more.safetensors";
  WriteIndex(index);
  EXPECT_THAT(Error(), AllOf(HasSubstr("too"), HasSubstr("more.safetensors"), HasSubstr(name)));
}

// ---- fingerprints ------------------------------------------------------------------------------

TEST_F(ModelDirectory, FingerprintsTellModelsApart) {
  const auto fingerprint = [&] {
    const auto opened = Checkpoint::Open(directory_.path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? (*opened)->fingerprint() : "";
  };
  Save();
  const std::string first = fingerprint();
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(first.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(fingerprint(), first);
  options_.shards = 2;  // the same model
  Save();
  EXPECT_EQ(fingerprint(), first);
  options_.shards = 1;
  options_.rope_theta = 20000;  // the same weights
  Save();
  EXPECT_NE(fingerprint(), first);
  options_.rope_theta = 10000;
  options_.seed = 2;
  Save();
  EXPECT_NE(fingerprint(), first);
  options_.seed = 1;
  options_.family = Family::kHybrid;
  Save();
  const std::string hybrid = fingerprint();
  nlohmann::json mamba_config = nlohmann::json::parse(directory_.Read("mamba_config.json"));
  mamba_config["dt_bias_applied"] = 1;
  directory_.Write("mamba_config.json", mamba_config.dump());
  EXPECT_NE(fingerprint(), hybrid);
  options_ = {};
  options_.layers = 2;
  std::filesystem::remove_all(directory_.path());
  Save();
  EXPECT_EQ(fingerprint(), first);
  // One bit in the middle of the largest tensor.
  std::string file = directory_.Read("model.safetensors");
  file[file.size() / 2] = static_cast<char>(file[file.size() / 2] ^ 1);
  directory_.Write("model.safetensors", file);
  EXPECT_NE(fingerprint(), first);
}

}  // namespace
}  // namespace mambad::checkpoint
