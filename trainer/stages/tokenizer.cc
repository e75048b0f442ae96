// SentencePiece's headers and Abseil's define the same names differently: nothing of ours that
// includes Abseil may come into this file.

#include <sentencepiece_trainer.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "trainer/line_reader.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

using nlohmann::json;

// Texts of a record, whatever its kind.
void CollectTexts(const json& value, std::vector<std::string>* texts) {
  if (value.is_string()) texts->push_back(value.get<std::string>());
  if (!value.is_structured()) return;
  for (const auto& [name, part] : value.items()) {
    if (name != "role") CollectTexts(part, texts);
  }
}

// Lines of all files, JSON Lines taken apart, without separators.
class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const TokenizerConfig& config) : config_(config) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    do {
      if (!TakeLine()) {
        done_ = true;
        return;
      }
    } while (line_.empty() || line_ == config_.separator);
  }

 private:
  bool TakeLine() {
    if (!waiting_.empty()) {
      line_ = std::move(waiting_.back());
      waiting_.pop_back();
      return true;
    }
    while (!reader_ || !reader_->Next(&line_)) {
      if (file_ == config_.train.size()) return false;
      reader_ = std::make_unique<LineReader>(config_.train[file_++]);
    }
    if (!line_.empty() && line_.front() == '{') SplitRecord();
    return true;
  }
  // The record's first line of text becomes the current one; the others wait.
  void SplitRecord() {
    const json record = json::parse(line_, nullptr, false);
    if (!record.is_object()) return;
    std::vector<std::string> texts;
    CollectTexts(record, &texts);
    line_.clear();
    for (auto text = texts.rbegin(); text != texts.rend(); ++text) {
      size_t end = text->size();
      while (true) {
        const size_t begin = end == 0 ? std::string::npos : text->rfind('\n', end - 1);
        waiting_.push_back(text->substr(begin == std::string::npos ? 0 : begin + 1,
                                        end - (begin == std::string::npos ? 0 : begin + 1)));
        if (begin == std::string::npos) break;
        end = begin;
      }
    }
  }

  const TokenizerConfig& config_;
  std::unique_ptr<LineReader> reader_;
  size_t file_ = 0;
  std::string line_;
  std::vector<std::string> waiting_;  // last one first
  bool done_ = false;
};

void WriteFile(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  out.close();
  if (!out) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace

void RunTokenizer(const TokenizerConfig& config) {
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(config.vocabulary)},
      {"character_coverage", std::to_string(config.character_coverage)},
      {"byte_fallback", config.byte_fallback ? "true" : "false"},
      {"input_sentence_size", std::to_string(config.most_sentences)},
      {"shuffle_input_sentence", "false"},
      {"max_sentence_length", "16384"},
      {"num_threads", std::to_string(config.threads)},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"split_digits", "true"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"minloglevel", "1"}};
  Lines lines(config);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  if (!status.ok()) throw std::runtime_error("tokenizer: " + status.ToString());
  std::error_code error;
  std::filesystem::create_directories(config.output, error);
  if (error) throw std::runtime_error(config.output + ": cannot be made: " + error.message());
  WriteFile(config.output + "/tokenizer.model", model);
  const json texts = {{"bos_token", "<s>"},
                      {"eos_token", "</s>"},
                      {"unk_token", "<unk>"},
                      {"add_bos_token", true},
                      {"add_eos_token", false}};
  WriteFile(config.output + "/tokenizer_config.json", texts.dump(2) + "\n");
  std::fprintf(stderr, "tokenizer: wrote %s/tokenizer.model with %lld pieces\n",
               config.output.c_str(), static_cast<long long>(config.vocabulary));
}

}  // namespace mambad::trainer
