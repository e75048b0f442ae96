#include "trainer/stages/convert.h"

#include <cstdio>

#include "engine/checkpoint/dequantise.h"
#include "trainer/formats/convert_model.h"
#include "trainer/stages/run_folder.h"

namespace mambad::trainer {

void Describe(Settings* s, ConvertConfig* c) {
  s->Text("input", &c->input, Settings::Need::kRequired,
          "a GGUF file that mambad serves, a llama2.c .bin file, or a directory with "
          "pytorch_model.bin or safetensors, in Hugging Face's, the state-spaces or MambaInLlama's "
          "layout");
  s->Text("output", &c->output, Settings::Need::kRequired, "directory to write");
  s->Text("tokenizer", &c->tokenizer, Settings::Need::kOptional,
          "directory with tokenizer files, or llama2.c's tokenizer file; empty: in or beside the "
          "input");
  s->Choice("stored", &c->stored, {"auto", "fp32", "fp16", "bf16"},
            "element type of matrices; auto: the input's, bf16 for quantised files");
  s->Real("shard_gigabytes", &c->shard_gigabytes, 0, 1e6, "size of a file at most; 0: one file");
  s->Flag("overwrite", &c->overwrite,
          "a model of another origin in output is replaced; also: --overwrite");
}

void RunConvert(const ConvertConfig& config) {
  ConvertOptions options;
  options.input = config.input;
  options.tokenizer = config.tokenizer;
  options.shard_bytes = static_cast<int64_t>(config.shard_gigabytes * 1e9);
  if (config.stored == ConvertedType::kFloat32) options.type = checkpoint::StorageType::kFloat32;
  if (config.stored == ConvertedType::kFloat16) options.type = checkpoint::StorageType::kFloat16;
  if (config.stored == ConvertedType::kBFloat16) options.type = checkpoint::StorageType::kBFloat16;
  RequireFreeOutput(config.output, "convert", DescriptionOf(config), config.overwrite);
  ConvertedModel model;
  ReplaceDirectory(config.output, [&](const std::string& directory) {
    options.output = directory;
    model = ConvertModel(options);
    KeepSettings(directory, "convert", DescriptionOf(config));
  });
  std::fprintf(stderr, "convert: %s %s -> %s: %lld parameters, %s\n", SourceKindName(model.kind),
               config.input.c_str(), config.output.c_str(),
               static_cast<long long>(model.parameters), checkpoint::StorageTypeName(model.type));
  if (!model.has_tokenizer) {
    std::fprintf(stderr, "convert: no tokenizer found: name one in the setting \"tokenizer\"\n");
  }
}

}  // namespace mambad::trainer
