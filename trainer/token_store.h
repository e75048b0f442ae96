// A corpus as tokens on disk: written once, mapped for reading, independent of where the text was.

#ifndef MAMBAD_TRAINER_TOKEN_STORE_H_
#define MAMBAD_TRAINER_TOKEN_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/checkpoint/mapped_file.h"
#include "trainer/corpus.h"

namespace mambad::trainer {

// A folder with index.json and tokens-00000.bin, tokens-00001.bin, ... . A shard, little endian:
//   bytes 0..7    "MAMBATOK"
//   bytes 8..15   uint32 version (1), uint32 bytes a token (2 or 4)
//   bytes 16..39  uint64 tokens, uint64 documents, uint64 bytes of loss mask (0: all trained)
//   then          uint64 first token of each document, and the number of tokens
//   then          the loss mask, one bit a token, lowest bit first, padded to 8 bytes
//   then          the tokens
// index.json holds the shards' sizes and the two fingerprints and is written last: a folder without
// it was left half written.
struct TokenStoreIndex {
  std::string tokenizer_fingerprint;  // of the files that make tokens out of text
  std::string source_fingerprint;     // of text, options and tokenizer
  int64_t vocabulary_size = 0;
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t trained_tokens = 0;
  bool pairs = false;  // documents 2i and 2i+1 are chosen and rejected
  int64_t skipped_records = 0;
  std::string first_skipped;        // the first one's file, line and fault
  std::vector<std::string> shards;  // file names
};

// Collects documents and writes shards. Throws std::runtime_error with the path when the disk is
// full or the folder cannot be written; then no index.json exists.
class TokenStoreWriter {
 public:
  // `shard_tokens`: a shard is closed when it has that many.
  TokenStoreWriter(std::string directory, int64_t vocabulary_size, int64_t shard_tokens);
  // One record: one document, or a pair. All records of a store are of one kind.
  void Add(const std::vector<TokenizedDocument>& record);
  // Writes what remains and the index. `index` gives fingerprints and skipped records; the counts
  // are filled in.
  void Finish(TokenStoreIndex index);

 private:
  void CloseShard();

  std::string directory_;
  int64_t vocabulary_size_, shard_tokens_;
  TokenStoreIndex index_;
  std::vector<uint32_t> tokens_;
  std::vector<bool> trained_;
  std::vector<uint64_t> starts_;
  size_t documents_per_record_ = 0;
};

// Immutable after opening; safe from any thread. Everything about the files is checked at opening,
// but the tokens themselves: those are checked where they are read.
class TokenStore {
 public:
  // Throws std::runtime_error: no store, a damaged one (file, expected, found).
  static TokenStore Open(const std::string& directory);

  const TokenStoreIndex& index() const { return index_; }
  const std::string& directory() const { return directory_; }
  int64_t documents() const { return index_.documents; }
  int64_t Length(int64_t document) const;
  // The place in a document of its first trained token from `from` on; its length: there is none.
  int64_t FirstTrained(int64_t document, int64_t from) const;
  // Tokens [offset, offset + count) of a document as int64 and whether each is trained.
  void Read(int64_t document, int64_t offset, int64_t count, int64_t* tokens,
            uint8_t* trained) const;

 private:
  struct Shard {
    checkpoint::MappedFile file;
    int64_t first_document = 0, documents = 0;
    int64_t bytes_per_token = 2;
    const std::byte* starts = nullptr;
    const std::byte* mask = nullptr;  // null: all trained
    const std::byte* tokens = nullptr;
    uint64_t Start(int64_t document) const;
    bool Trained(int64_t place) const;
  };
  static Shard OpenShard(const std::string& path);
  const Shard& ShardOf(int64_t document) const;

  std::string directory_;
  TokenStoreIndex index_;
  std::vector<Shard> shards_;
};

// What a store is made from.
struct TokenStoreSource {
  std::vector<std::string> files;  // read in this order
  std::string model_directory;     // tokenizer and chat template
  CorpusOptions options;
  int64_t shard_tokens = int64_t{1} << 24;
  // Told after every record how many documents and tokens there are by now; null: nobody.
  std::function<void(int64_t documents, int64_t tokens)> watch;
};

// Opens the store in `directory` if it was made from the same text, options and tokenizer, and
// makes it otherwise. Throws std::runtime_error.
TokenStore OpenOrMakeTokenStore(const std::string& directory, const TokenStoreSource& source);

// Of tokenizer.json or tokenizer.model and what stands beside them.
std::string TokenizerFingerprint(const std::string& model_directory);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TOKEN_STORE_H_
