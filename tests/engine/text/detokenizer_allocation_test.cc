// A decode step allocates nothing once warm: the detokenizer's part of that.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "engine/text/detokenizer.h"

namespace {
thread_local size_t allocations = 0;
}  // namespace

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  std::abort();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace mambad::text {
namespace {

TEST(DetokenizerAllocation, NoneOnceWarm) {
  BpeVocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.pieces = {"a", "Ġa_rather_long_piece_of_text_that_no_small_string_holds", "Ã"};
  const auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  auto detokenizer = Detokenizer::Create(
      tokenizer->get(), {.stop_strings = {"piece_of_texture", " a_rather_long_piece_of_text."}});
  ASSERT_TRUE(detokenizer.ok());
  std::vector<TokenId> ids = {0, 1, 2, 1, 0, 2, 2, 1};
  size_t released = detokenizer->Push(ids).text.size();
  const size_t before = allocations;
  EXPECT_GT(before, 0u);
  for (int step = 0; step < 1000; ++step) {
    released += detokenizer->Push({ids.data() + step % 8, 1}).text.size();
  }
  EXPECT_EQ(allocations, before);
  EXPECT_GT(released, 1000u);
}

}  // namespace
}  // namespace mambad::text
