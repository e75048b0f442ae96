#include "trainer/token_store.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "engine/checkpoint/fingerprint.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/text/chat_template_file.h"
#include "trainer/formats/model_text.h"

namespace mambad::trainer {
namespace {

using nlohmann::json;
namespace filesystem = std::filesystem;

constexpr char kMagic[] = "MAMBATOK";
constexpr size_t kHeaderBytes = 40;
constexpr int kVersion = 1;

[[noreturn]] void Refuse(const std::string& what) { throw std::runtime_error(what); }

void Require(const absl::Status& status) {
  if (!status.ok()) Refuse(std::string(status.message()));
}

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

absl::Span<const std::byte> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

void WriteFile(const std::string& path, const std::string& content) {
  const std::array<absl::Span<const std::byte>, 1> pieces = {Bytes(content)};
  Require(checkpoint::WriteFileAtomically(path, pieces));
}

int64_t Number(const json& object, const char* name, const std::string& path) {
  const auto field = object.find(name);
  if (field == object.end() || !field->is_number_integer() || field->get<int64_t>() < 0) {
    Refuse(path + ": \"" + name + "\": expected a number of 0 or more");
  }
  return field->get<int64_t>();
}

std::string Text(const json& object, const char* name, const std::string& path) {
  const auto field = object.find(name);
  if (field == object.end() || !field->is_string()) {
    Refuse(path + ": \"" + name + "\": expected a text");
  }
  return field->get<std::string>();
}

TokenStoreIndex ReadIndex(const std::string& directory) {
  const std::string path = directory + "/index.json";
  auto parsed = checkpoint::ReadJsonFile(path);
  if (!parsed.ok()) Refuse(std::string(parsed.status().message()));
  const json& object = *parsed;
  if (Number(object, "version", path) != kVersion) {
    Refuse(path + absl::StrFormat(": \"version\": expected %d", kVersion));
  }
  TokenStoreIndex index;
  index.tokenizer_fingerprint = Text(object, "tokenizer_fingerprint", path);
  index.source_fingerprint = Text(object, "source_fingerprint", path);
  index.vocabulary_size = Number(object, "vocabulary_size", path);
  index.tokens = Number(object, "tokens", path);
  index.documents = Number(object, "documents", path);
  index.trained_tokens = Number(object, "trained_tokens", path);
  index.skipped_records = Number(object, "skipped_records", path);
  if (object.contains("first_skipped")) index.first_skipped = Text(object, "first_skipped", path);
  index.pairs = object.value("pairs", json(false)) == json(true);
  const auto shards = object.find("shards");
  if (shards == object.end() || !shards->is_array() || shards->empty()) {
    Refuse(path + ": \"shards\": expected a list of file names");
  }
  for (const json& shard : *shards) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos) {
      Refuse(path + ": \"shards\": expected a file name in this folder");
    }
    index.shards.push_back(shard.get<std::string>());
  }
  return index;
}

void AddFile(const std::string& path, checkpoint::Fingerprint* fingerprint) {
  auto file = checkpoint::MappedFile::Open(path);
  if (file.ok())
    fingerprint->Add(file->bytes());
  else
    fingerprint->Add(std::string());
}

std::string SourceFingerprint(const TokenStoreSource& source, const std::string& tokenizer) {
  checkpoint::Fingerprint fingerprint;
  fingerprint.Add(tokenizer);
  const CorpusOptions& options = source.options;
  fingerprint.Add(options.separator);
  fingerprint.Add(absl::StrFormat("%d %d %d %d %d %d", options.skip_malformed,
                                  options.prompts_are_chat, options.append_end_of_text,
                                  options.train_on_prompts, options.maximum_tokens,
                                  source.shard_tokens));
  for (const std::string& path : source.files) {
    auto file = checkpoint::MappedFile::Open(path);
    if (!file.ok()) Refuse(std::string(file.status().message()));
    fingerprint.Add(file->bytes());
  }
  return fingerprint.Digits();
}

}  // namespace

TokenStoreWriter::TokenStoreWriter(std::string directory, int64_t vocabulary_size,
                                   int64_t shard_tokens)
    : directory_(std::move(directory)),
      vocabulary_size_(vocabulary_size),
      shard_tokens_(shard_tokens) {
  std::error_code error;
  filesystem::create_directories(directory_, error);
  if (error) Refuse(directory_ + ": cannot be made: " + error.message());
  // Without its index the folder is not a store while the shards change.
  filesystem::remove(directory_ + "/index.json", error);
}

void TokenStoreWriter::Add(const std::vector<TokenizedDocument>& record) {
  if (documents_per_record_ == 0) documents_per_record_ = record.size();
  if (record.size() != documents_per_record_) {
    Refuse(directory_ + ": preference pairs and other records in one store");
  }
  for (const TokenizedDocument& document : record) {
    starts_.push_back(tokens_.size());
    tokens_.insert(tokens_.end(), document.tokens.begin(), document.tokens.end());
    trained_.insert(trained_.end(), document.trained.begin(), document.trained.end());
  }
  if (static_cast<int64_t>(tokens_.size()) >= shard_tokens_) CloseShard();
}

void TokenStoreWriter::CloseShard() {
  if (starts_.empty()) return;
  const int64_t trained = std::count(trained_.begin(), trained_.end(), true);
  const bool all_trained = trained == static_cast<int64_t>(tokens_.size());
  const size_t mask_bytes = all_trained ? 0 : (tokens_.size() + 63) / 64 * 8;
  const bool narrow = vocabulary_size_ <= 65536;
  std::string content(kMagic, 8);
  Append<uint32_t>(kVersion, &content);
  Append<uint32_t>(narrow ? 2 : 4, &content);
  Append<uint64_t>(tokens_.size(), &content);
  Append<uint64_t>(starts_.size(), &content);
  Append<uint64_t>(mask_bytes, &content);
  for (const uint64_t start : starts_) Append(start, &content);
  Append<uint64_t>(tokens_.size(), &content);
  std::string mask(mask_bytes, '\0');
  for (size_t i = 0; !all_trained && i < tokens_.size(); ++i) {
    if (trained_[i]) mask[i / 8] = static_cast<char>(mask[i / 8] | (1 << (i % 8)));
  }
  content += mask;
  for (const uint32_t token : tokens_) {
    if (narrow)
      Append(static_cast<uint16_t>(token), &content);
    else
      Append(token, &content);
  }
  index_.shards.push_back(absl::StrFormat("tokens-%05d.bin", index_.shards.size()));
  WriteFile(directory_ + "/" + index_.shards.back(), content);
  index_.tokens += static_cast<int64_t>(tokens_.size());
  index_.documents += static_cast<int64_t>(starts_.size());
  index_.trained_tokens += trained;
  tokens_.clear();
  trained_.clear();
  starts_.clear();
}

void TokenStoreWriter::Finish(TokenStoreIndex index) {
  CloseShard();
  if (index_.shards.empty()) Refuse(directory_ + ": not one document in the source");
  json shards = json::array();
  for (const std::string& shard : index_.shards) shards.push_back(shard);
  json object = {{"version", kVersion},
                 {"tokenizer_fingerprint", index.tokenizer_fingerprint},
                 {"source_fingerprint", index.source_fingerprint},
                 {"vocabulary_size", vocabulary_size_},
                 {"tokens", index_.tokens},
                 {"documents", index_.documents},
                 {"trained_tokens", index_.trained_tokens},
                 {"pairs", documents_per_record_ == 2},
                 {"skipped_records", index.skipped_records},
                 {"shards", std::move(shards)}};
  if (!index.first_skipped.empty()) object["first_skipped"] = index.first_skipped;
  WriteFile(directory_ + "/index.json", object.dump(2) + "\n");
}

uint64_t TokenStore::Shard::Start(int64_t document) const {
  return Load<uint64_t>(starts + (document - first_document) * sizeof(uint64_t));
}

TokenStore::Shard TokenStore::OpenShard(const std::string& path) {
  auto file = checkpoint::MappedFile::Open(path);
  if (!file.ok()) Refuse(std::string(file.status().message()));
  Shard shard{*std::move(file)};
  const absl::Span<const std::byte> bytes = shard.file.bytes();
  if (bytes.size() < kHeaderBytes || std::memcmp(bytes.data(), kMagic, 8) != 0) {
    Refuse(path + ": not a token shard");
  }
  shard.bytes_per_token = Load<uint32_t>(bytes.data() + 12);
  const uint64_t tokens = Load<uint64_t>(bytes.data() + 16);
  const uint64_t documents = Load<uint64_t>(bytes.data() + 24);
  const uint64_t mask_bytes = Load<uint64_t>(bytes.data() + 32);
  const uint64_t limit = bytes.size();
  if (Load<uint32_t>(bytes.data() + 8) != kVersion ||
      (shard.bytes_per_token != 2 && shard.bytes_per_token != 4) || tokens > limit ||
      documents > limit || (mask_bytes != 0 && mask_bytes != (tokens + 63) / 64 * 8) ||
      kHeaderBytes + (documents + 1) * 8 + mask_bytes + tokens * shard.bytes_per_token != limit) {
    Refuse(path + absl::StrFormat(": a damaged token shard of %d bytes", limit));
  }
  shard.documents = static_cast<int64_t>(documents);
  shard.starts = bytes.data() + kHeaderBytes;
  const std::byte* mask = shard.starts + (documents + 1) * 8;
  shard.mask = mask_bytes == 0 ? nullptr : mask;
  shard.tokens = mask + mask_bytes;
  uint64_t previous = 0;
  for (uint64_t document = 0; document <= documents; ++document) {
    const uint64_t start = Load<uint64_t>(shard.starts + document * 8);
    if (start < previous || start > tokens || (document == documents && start != tokens)) {
      Refuse(path + absl::StrFormat(": document %d begins at token %d", document, start));
    }
    previous = start;
  }
  return shard;
}

bool TokenStore::Shard::Trained(int64_t place) const {
  return mask == nullptr || ((static_cast<uint8_t>(mask[place / 8]) >> (place % 8)) & 1) != 0;
}

TokenStore TokenStore::Open(const std::string& directory) {
  TokenStore store;
  store.directory_ = directory;
  store.index_ = ReadIndex(directory);
  int64_t documents = 0;
  for (const std::string& name : store.index_.shards) {
    store.shards_.push_back(OpenShard(directory + "/" + name));
    store.shards_.back().first_document = documents;
    documents += store.shards_.back().documents;
  }
  if (documents != store.index_.documents || documents == 0 ||
      (store.index_.pairs && documents % 2 != 0)) {
    Refuse(directory + absl::StrFormat(": expected %d documents, found %d in the shards",
                                       store.index_.documents, documents));
  }
  return store;
}

const TokenStore::Shard& TokenStore::ShardOf(int64_t document) const {
  const auto after = std::upper_bound(
      shards_.begin(), shards_.end(), document,
      [](int64_t number, const Shard& shard) { return number < shard.first_document; });
  return *std::prev(after);
}

int64_t TokenStore::Length(int64_t document) const {
  const Shard& shard = ShardOf(document);
  return static_cast<int64_t>(shard.Start(document + 1) - shard.Start(document));
}

int64_t TokenStore::FirstTrained(int64_t document, int64_t from) const {
  const Shard& shard = ShardOf(document);
  const auto begin = static_cast<int64_t>(shard.Start(document));
  const int64_t length = static_cast<int64_t>(shard.Start(document + 1)) - begin;
  while (from < length && !shard.Trained(begin + from)) ++from;
  return std::min(from, length);
}

void TokenStore::Read(int64_t document, int64_t offset, int64_t count, int64_t* tokens,
                      uint8_t* trained) const {
  const Shard& shard = ShardOf(document);
  const int64_t begin = static_cast<int64_t>(shard.Start(document)) + offset;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = begin + i;
    const std::byte* at = shard.tokens + place * shard.bytes_per_token;
    tokens[i] = shard.bytes_per_token == 2 ? Load<uint16_t>(at) : Load<uint32_t>(at);
    if (tokens[i] >= index_.vocabulary_size) {
      Refuse(shard.file.path() + absl::StrFormat(": token %d of a vocabulary of %d", tokens[i],
                                                 index_.vocabulary_size));
    }
    trained[i] = shard.Trained(place);
  }
}

std::string TokenizerFingerprint(const std::string& model_directory) {
  checkpoint::Fingerprint fingerprint;
  // Also where they are not: what lies beside them is counted only where it is, so that tokens that
  // were made before it counted remain good.
  constexpr std::array<absl::string_view, 6> kCounted = {
      "tokenizer.json",          "tokenizer.model",     "tokenizer_config.json",
      "special_tokens_map.json", "chat_template.jinja", "chat_template.json"};
  for (const absl::string_view name : kCounted) {
    AddFile(absl::StrCat(model_directory, "/", name), &fingerprint);
  }
  for (const std::string& name : TextFilesIn(model_directory)) {
    const bool counted = std::find(kCounted.begin(), kCounted.end(), name) != kCounted.end();
    if (counted || name == "vocab.json" || name == "merges.txt")
      continue;  // the latter are not read
    fingerprint.Add(name);
    AddFile(absl::StrCat(model_directory, "/", name), &fingerprint);
  }
  return fingerprint.Digits();
}

TokenStore OpenOrMakeTokenStore(const std::string& directory, const TokenStoreSource& source) {
  if (source.files.empty()) Refuse(directory + ": no text files to make tokens from");
  const std::string tokenizer_fingerprint = TokenizerFingerprint(source.model_directory);
  const std::string source_fingerprint = SourceFingerprint(source, tokenizer_fingerprint);
  std::error_code error;
  if (filesystem::exists(directory + "/index.json", error) &&
      ReadIndex(directory).source_fingerprint == source_fingerprint) {
    return TokenStore::Open(directory);
  }
  const ModelText model_text = OpenModelText(source.model_directory);
  TokenStoreWriter writer(directory, model_text.tokenizer->vocabulary_size(), source.shard_tokens);
  TokenStoreIndex index;
  index.tokenizer_fingerprint = tokenizer_fingerprint;
  index.source_fingerprint = source_fingerprint;
  int64_t documents = 0, tokens = 0;
  for (const std::string& path : source.files) {
    const CorpusCounts counts = ReadCorpus(path, model_text.corpus(), source.options,
                                           [&](const std::vector<TokenizedDocument>& record) {
                                             writer.Add(record);
                                             documents += static_cast<int64_t>(record.size());
                                             for (const TokenizedDocument& document : record) {
                                               tokens +=
                                                   static_cast<int64_t>(document.tokens.size());
                                             }
                                             if (source.watch) source.watch(documents, tokens);
                                           });
    index.skipped_records += counts.skipped;
    if (index.first_skipped.empty()) index.first_skipped = counts.first_skipped;
  }
  writer.Finish(index);
  return TokenStore::Open(directory);
}

}  // namespace mambad::trainer
