// A SentencePiece model in the process that serves: its library brings an old protobuf along, gRPC
// a new one, and neither may serve the other.

#include <vector>

#include "absl/strings/str_format.h"
#include "engine/text/tokenizer.h"
#include "gtest/gtest.h"
#include "mambad/v1/generation.pb.h"
#include "trainer/formats/sentencepiece_file.h"

namespace mambad::testing {
namespace {

using trainer::SentencePieceFile;

TEST(TokenizerModel, IsReadBesideProtobuf) {
#if defined(__SANITIZE_ADDRESS__) || defined(MAMBAD_THREAD_SANITIZER)
  GTEST_SKIP() << "this sanitizer cannot load a library whose own symbols come first";
#endif
  SentencePieceFile file;
  file.pieces = {{"<unk>", 0, SentencePieceFile::kUnknown},
                 {"<s>", 0, SentencePieceFile::kControl},
                 {"</s>", 0, SentencePieceFile::kControl}};
  for (int byte = 0; byte < 256; ++byte) {
    file.pieces.push_back({absl::StrFormat("<0x%02X>", byte), 0, SentencePieceFile::kByte});
  }
  for (const char* piece : {"ab", "a", "b", trainer::kSpaceMarker}) {
    file.pieces.push_back({piece, -static_cast<float>(file.pieces.size())});
  }
  file.unknown_id = 0, file.bos_id = 1, file.eos_id = 2;
  text::TokenizerFiles files;
  files.sentencepiece_model = file.Serialize();
  files.source_name = "made here";
  const auto tokenizer = text::CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 263);

  v1::TokenIds message, read;
  for (const int32_t id : {3, 4, 5}) message.add_ids(id);
  ASSERT_TRUE(read.ParseFromString(message.SerializeAsString()));
  EXPECT_EQ(read.ids_size(), 3);
}

}  // namespace
}  // namespace mambad::testing
