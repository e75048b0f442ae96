// SentencePiece's headers and Abseil's define the same names differently: nothing of ours that
// includes Abseil may come into this file.

#include <sentencepiece_trainer.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "trainer/json_record.h"
#include "trainer/line_reader.h"
#include "trainer/stages/run_folder.h"
#include "trainer/stages/stage.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

using nlohmann::json;

// What a record gives to write, as corpus.h reads it; numbers, names and roles are no text.
std::vector<std::string> TextsOf(const json& record) {
  std::vector<std::string> texts;
  const auto take = [&](const json& holder, const char* name) {
    const auto field = holder.find(name);
    if (field != holder.end() && field->is_string()) texts.push_back(field->get<std::string>());
  };
  const auto take_turns = [&](const char* name) {
    const auto turns = record.find(name);
    if (turns == record.end() || !turns->is_array()) return;
    for (const json& turn : *turns) {
      if (turn.is_object()) take(turn, "content");
    }
  };
  take_turns("messages");
  take_turns("prompt");
  for (const char* name : {"text", "prompt", "completion", "chosen", "rejected"}) {
    take(record, name);
  }
  return texts;
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
    if (reader_->json_lines() && line_.find_first_not_of(" \t") != std::string::npos) SplitRecord();
    return true;
  }
  // The record's first line of text becomes the current one; the others wait.
  void SplitRecord() {
    const json record = ReadJsonRecord(line_);
    std::vector<std::string> texts;
    if (record.is_object()) texts = TextsOf(record);
    if (texts.empty()) {
      throw std::runtime_error(
          reader_->path() + ":" + std::to_string(reader_->line_number()) +
          ": expected JSON Lines: a whole JSON object with a text on every line");
    }
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

// The number that follows `words` in `text`; empty: they are not there.
std::string NumberBehind(const std::string& text, const std::string& words) {
  const size_t at = text.find(words);
  if (at == std::string::npos) return "";
  const size_t begin = at + words.size();
  return text.substr(begin, text.find_first_not_of("0123456789", begin) - begin);
}

// SentencePiece's complaint in the words of our settings.
std::string FaultOf(const std::string& complaint, const TokenizerConfig& config) {
  const std::string found = ", found " + std::to_string(config.vocabulary);
  const std::string most =
      NumberBehind(complaint, "too high (" + std::to_string(config.vocabulary) +
                                  "). Please set it to a value <= ");
  if (!most.empty()) return "vocabulary: expected at most " + most + " for so little text" + found;
  const std::string least = NumberBehind(
      complaint, "smaller than required_chars. " + std::to_string(config.vocabulary) + " vs ");
  if (!least.empty()) {
    return "vocabulary: expected at least " + least +
           " (a piece for every character, or a lower character_coverage)" + found;
  }
  if (complaint.find("!sentences_.empty()") != std::string::npos) return "train: no text in it";
  const size_t place = complaint.find("] ");  // in its sources
  return "tokenizer: " + (place == std::string::npos ? complaint : complaint.substr(place + 2));
}

}  // namespace

void RunTokenizer(const TokenizerConfig& config) {
  RequireFreeTokenizerOutput(config.output, "tokenizer", DescriptionOf(config), config.overwrite);
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
  if (!status.ok()) throw std::runtime_error(FaultOf(status.ToString(), config));
  std::error_code error;
  std::filesystem::create_directories(config.output, error);
  if (error) throw std::runtime_error(config.output + ": cannot be made: " + error.message());
  WriteText(config.output + "/tokenizer.model", model);
  const json texts = {{"bos_token", "<s>"},
                      {"eos_token", "</s>"},
                      {"unk_token", "<unk>"},
                      {"add_bos_token", true},
                      {"add_eos_token", false}};
  WriteText(config.output + "/tokenizer_config.json", texts.dump(2) + "\n");
  KeepSettings(config.output, "tokenizer", DescriptionOf(config));
  std::fprintf(stderr, "tokenizer: wrote %s/tokenizer.model with %lld pieces\n",
               config.output.c_str(), static_cast<long long>(config.vocabulary));
}

}  // namespace mambad::trainer
