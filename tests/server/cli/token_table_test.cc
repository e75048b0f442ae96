#include "server/cli/token_table.h"

#include <gtest/gtest.h>

#include <limits>

namespace mambad::cli {
namespace {

void Add(v1::GenerateResponse* response, int id, const char* piece, float value) {
  v1::TokenLogprob* entry = response->add_logprobs();
  entry->set_id(id);
  entry->set_piece(piece);
  entry->set_logprob(value);
}

TEST(TokenTableTest, ColumnsStandBelowEachOther) {
  v1::GenerateResponse response;
  Add(&response, 5, " sky", -0.5f);
  Add(&response, 12345, "\n", -std::numeric_limits<float>::infinity());
  auto* alternative = response.mutable_logprobs(1)->add_alternatives();
  alternative->set_id(7);
  alternative->set_piece("!");
  alternative->set_logprob(-0.25f);
  EXPECT_EQ(TokenTable(9, response.logprobs()),
            "position       id  piece     logprob   alternatives\n"
            "       9        5  \" sky\"   -0.50000\n"
            "      10    12345  \"\\n\"         -inf   7 \"!\" -0.2500\n");
}

TEST(TokenTableTest, WithoutATokenizerThereAreNoPieces) {
  v1::GenerateResponse response;
  Add(&response, 5, "", -0.5f);
  EXPECT_EQ(TokenTable(0, response.logprobs()),
            "position       id     logprob\n"
            "       0        5    -0.50000\n");
}

}  // namespace
}  // namespace mambad::cli
