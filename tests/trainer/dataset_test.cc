// Token stores and the batches packed from them.

#include "trainer/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/token_store.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;
using testing::WriteText;

// Documents of given lengths; token t of document d is 100 d + t, and those with t >= untrained are
// trained.
TokenStore MakeStore(const std::string& folder, const std::vector<int>& lengths, int untrained = 0,
                     int64_t shard_tokens = 1 << 20, bool pairs = false, int vocabulary = 5000) {
  TokenStoreWriter writer(folder, vocabulary, shard_tokens);
  std::vector<TokenizedDocument> record;
  for (size_t d = 0; d < lengths.size(); ++d) {
    TokenizedDocument document;
    for (int t = 0; t < lengths[d]; ++t) {
      document.tokens.push_back(static_cast<int>(100 * d) + t);
      document.trained.push_back(t >= untrained);
    }
    record.push_back(document);
    if (pairs && record.size() < 2) continue;
    writer.Add(record);
    record.clear();
  }
  writer.Finish({});
  return TokenStore::Open(folder);
}

TEST(TokenStore, GivesBackWhatWasWrittenOverSeveralShards) {
  testing::TemporaryDirectory folder;
  for (const int vocabulary : {5000, 100000}) {
    const std::vector<int> lengths = {3, 70, 1, 64, 5, 99};
    const TokenStore store = MakeStore(folder.path(), lengths, 2, 70, false, vocabulary);
    EXPECT_EQ(store.index().shards.size(), 3u);
    EXPECT_EQ(store.index().tokens, 242);
    EXPECT_EQ(store.index().trained_tokens, 1 + 68 + 0 + 62 + 3 + 97);
    for (size_t d = 0; d < lengths.size(); ++d) {
      const auto document = static_cast<int64_t>(d);
      ASSERT_EQ(store.Length(document), lengths[d]);
      std::vector<int64_t> tokens(lengths[d]);
      std::vector<uint8_t> trained(lengths[d]);
      store.Read(document, 0, lengths[d], tokens.data(), trained.data());
      for (int t = 0; t < lengths[d]; ++t) {
        EXPECT_EQ(tokens[t], 100 * document + t);
        EXPECT_EQ(trained[t], t >= 2);
      }
    }
  }
}

TEST(TokenStore, DamageIsFoundAtOpening) {
  testing::TemporaryDirectory folder;
  MakeStore(folder.path(), {10, 20}, 1);
  const std::string shard = folder.path() + "/tokens-00000.bin",
                    index = folder.path() + "/index.json";
  const std::string good = ReadText(shard), good_index = ReadText(index);
  const auto opened = [&] { return ErrorOf([&] { TokenStore::Open(folder.path()); }); };
  EXPECT_EQ(opened(), "nothing was thrown");
  WriteText(shard, good.substr(0, good.size() - 1));
  EXPECT_THAT(opened(), HasSubstr("a damaged token shard"));
  WriteText(shard, "MAMBATOX" + good.substr(8));
  EXPECT_THAT(opened(), HasSubstr("not a token shard"));
  for (const size_t place : {16u, 24u, 32u}) {  // counts that would reach outside
    std::string huge = good;
    huge.replace(place, 8, 8, '\xff');
    WriteText(shard, huge);
    EXPECT_THAT(opened(), HasSubstr("a damaged token shard")) << place;
  }
  std::string wrapped = good;  // 2^61 documents more: their bytes are 2^64, nothing in 64 bits
  wrapped[31] = 0x20;
  WriteText(shard, wrapped);
  EXPECT_THAT(opened(), HasSubstr("a damaged token shard"));
  std::string start = good;
  start[48] = 31;  // the second document's
  WriteText(shard, start);
  EXPECT_THAT(opened(), HasSubstr("document 1 begins at token 31"));
  WriteText(shard, good);
  WriteText(index, "{}");
  EXPECT_THAT(opened(), HasSubstr("index.json: \"version\""));
  std::string outside = good_index;
  outside.replace(outside.find("tokens-00000.bin"), 16, "../tokens-0.bin!");
  WriteText(index, outside);
  EXPECT_THAT(opened(), HasSubstr("expected a file name in this folder"));
}

TEST(TokenStore, TokensOutsideTheVocabularyAreFoundWhereTheyAreRead) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {10, 20}, 0, 1 << 20, false, 115);
  int64_t token = 0;
  uint8_t trained = 0;
  store.Read(1, 14, 1, &token, &trained);
  EXPECT_EQ(token, 114);
  EXPECT_THAT(ErrorOf([&] { store.Read(1, 15, 1, &token, &trained); }),
              HasSubstr("token 115 of a vocabulary of 115"));
}

TEST(TokenStore, IsMadeAnewOnlyWhenTextOrTokenizerChange) {
  testing::TemporaryDirectory folder, model;
  testing::WriteSmallTokenizer(model.path(), false);
  TokenStoreSource source;
  source.files = {folder.path() + "/a.jsonl"};
  source.model_directory = model.path();
  WriteText(source.files[0], "{\"text\": \"abc\"}\n");
  const std::string store = folder.path() + "/store", shard = store + "/tokens-00000.bin";
  EXPECT_EQ(OpenOrMakeTokenStore(store, source).index().tokens, 4);
  // A store that is kept is not written: what stands in it now, wrong as it is, stays.
  const std::string good = ReadText(shard);
  std::string other = good;
  other[other.size() - 2] = 'z';
  WriteText(shard, other);
  OpenOrMakeTokenStore(store, source);
  EXPECT_EQ(ReadText(shard), other);
  source.options.append_end_of_text = false;
  EXPECT_EQ(OpenOrMakeTokenStore(store, source).index().tokens, 3);
  WriteText(source.files[0], "{\"text\": \"abcd\"}\n");
  EXPECT_EQ(OpenOrMakeTokenStore(store, source).index().tokens, 4);
  // One that was left half written has no index.
  std::filesystem::remove(store + "/index.json");
  EXPECT_EQ(OpenOrMakeTokenStore(store, source).index().tokens, 4);
}

TEST(TokenStore, TellsHowFarItIs) {
  testing::TemporaryDirectory folder, model;
  testing::WriteSmallTokenizer(model.path(), false);
  TokenStoreSource source;
  source.files = {folder.path() + "/a.jsonl", folder.path() + "/b.jsonl"};
  source.model_directory = model.path();
  WriteText(source.files[0], "{\"text\": \"abc\"}\n{\"text\": \"de\"}\n");
  WriteText(source.files[1], "{\"text\": \"f\"}\n");
  std::vector<std::pair<int64_t, int64_t>> told;
  source.watch = [&](int64_t documents, int64_t tokens) { told.emplace_back(documents, tokens); };
  const std::string store = folder.path() + "/store";
  OpenOrMakeTokenStore(store, source);
  EXPECT_EQ(told, (std::vector<std::pair<int64_t, int64_t>>{{1, 4}, {2, 7}, {3, 9}}));
  OpenOrMakeTokenStore(store, source);  // is there already
  EXPECT_EQ(told.size(), 3u);
}

TEST(TokenStore, AMalformedLineLeavesNoStoreBehind) {
  testing::TemporaryDirectory folder, model;
  testing::WriteSmallTokenizer(model.path(), false);
  TokenStoreSource source;
  source.files = {folder.path() + "/a.jsonl"};
  source.model_directory = model.path();
  WriteText(source.files[0], "{\"text\": \"abc\"}\n{\n");
  const std::string store = folder.path() + "/store";
  EXPECT_THAT(ErrorOf([&] { OpenOrMakeTokenStore(store, source); }), HasSubstr("a.jsonl:2: "));
  EXPECT_FALSE(std::filesystem::exists(store + "/index.json"));
}

TEST(TokenStore, RemembersWhatWasLeftOut) {
  testing::TemporaryDirectory folder, model;
  testing::WriteSmallTokenizer(model.path(), false);
  TokenStoreSource source;
  source.model_directory = model.path();
  source.options.skip_malformed = true;
  for (const char* name : {"/a.jsonl", "/b.jsonl", "/c.jsonl"}) {
    source.files.push_back(folder.path() + name);
    const bool good = name[1] == 'a';
    WriteText(source.files.back(), std::string("{\"text\": \"abc\"}\n") + (good ? "" : "{\n"));
  }
  for (int opened = 0; opened < 2; ++opened) {
    const TokenStore store = OpenOrMakeTokenStore(folder.path() + "/store", source);
    EXPECT_EQ(store.index().skipped_records, 2);
    EXPECT_THAT(store.index().first_skipped, HasSubstr("b.jsonl:2: expected JSON Lines"));
  }
}

TEST(TokenStore, FindsTheFirstTrainedToken) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {5, 2, 9}, 3);
  EXPECT_EQ(store.FirstTrained(0, 0), 3);
  EXPECT_EQ(store.FirstTrained(0, 4), 4);
  EXPECT_EQ(store.FirstTrained(1, 0), 2);  // none
  EXPECT_EQ(store.FirstTrained(2, 1), 3);
}

TEST(PackedDataset, WantsTextOfWhichSomethingCounts) {
  testing::TemporaryDirectory folder;
  const TokenStore pairs = MakeStore(folder.path() + "/pairs", {4, 6}, 2, 1 << 20, true);
  EXPECT_THAT(ErrorOf([&] { PackedDataset(&pairs, {}); }),
              HasSubstr("/pairs: preference pairs, which only preference learns from"));
  const TokenStore prompts = MakeStore(folder.path() + "/prompts", {4, 6}, 6);
  EXPECT_THAT(ErrorOf([&] { PackedDataset(&prompts, {}); }),
              HasSubstr("/prompts: not one of 10 tokens counts in the loss"));
  // Nothing stands before the only token of a document.
  const TokenStore short_ones = MakeStore(folder.path() + "/short", {1, 1, 1});
  EXPECT_THAT(ErrorOf([&] { PackedDataset(&short_ones, {}); }),
              HasSubstr("/short: not one of 3 tokens counts in the loss"));
}

TEST(PackedDataset, RowsHoldEveryTokenOnceInOrderOfDocuments) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {7, 3, 12, 1, 5}, 2);
  DatasetOptions options;
  options.row_tokens = 8;
  options.epochs = 1;
  PackedDataset data(&store, options);
  PackedBatch batch;
  std::map<int64_t, int64_t> next;  // of each document
  std::set<int64_t> seen;
  int64_t trained = 0, document = -1, position = 0;
  while (data.Next(2, &batch)) {
    ASSERT_EQ(batch.rows, 2);
    for (int64_t at = 0; at < 16; ++at) {
      const int64_t token = batch.token_ids[at];
      if (at % 8 == 0) EXPECT_EQ(batch.document_start[at], 1);
      if (batch.document_start[at]) position = 0;
      EXPECT_EQ(batch.positions[at], position++);
      trained += batch.loss_mask[at];
      if (batch.loss_mask[at]) {
        // The target follows the token in its document, also into the next row.
        EXPECT_EQ(batch.target_ids[at], token + 1);
        EXPECT_GE(batch.target_ids[at] % 100, 2);
      }
      if (token == 0 && seen.count(0)) continue;  // padding
      document = token / 100;
      EXPECT_TRUE(seen.insert(token).second);
      EXPECT_EQ(token, 100 * document + next[document]++);
      if (token % 100 == 0) EXPECT_EQ(batch.document_start[at], 1);
    }
  }
  EXPECT_EQ(seen.size(), 28u);
  // Targets: every trained token but none at the start of a document.
  EXPECT_EQ(trained, 5 + 1 + 10 + 0 + 3);
  EXPECT_FALSE(data.Next(1, &batch));
}

TEST(PackedDataset, ACursorGoesOnExactly) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {7, 3, 12, 1, 5, 30, 2, 9});
  DatasetOptions options;
  options.row_tokens = 16;
  options.seed = 5;
  PackedDataset whole(&store, options);
  PackedBatch expected, found;
  for (int batch = 0; batch < 12; ++batch) {
    const DatasetCursor cursor = whole.cursor();
    whole.Next(2, &expected);
    PackedDataset resumed(&store, options);
    resumed.Seek(cursor);
    resumed.Next(2, &found);
    EXPECT_EQ(found.token_ids, expected.token_ids) << batch;
    EXPECT_EQ(found.loss_mask, expected.loss_mask) << batch;
    EXPECT_EQ(resumed.cursor(), whole.cursor());
  }
  EXPECT_GT(whole.cursor().epoch, 3);
  EXPECT_THAT(ErrorOf([&] { whole.Seek({0, 8, 0}); }), HasSubstr("outside a store of 8"));
  EXPECT_THAT(ErrorOf([&] { whole.Seek({0, 0, 31}); }), HasSubstr("outside"));
}

TEST(PackedDataset, EpochsAndSeedsHaveOrdersOfTheirOwn) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), std::vector<int>(20, 2));
  const auto order = [&](uint64_t seed, int epoch) {
    DatasetOptions options;
    options.row_tokens = 40;
    options.seed = seed;
    PackedDataset data(&store, options);
    PackedBatch batch;
    for (int i = 0; i <= epoch; ++i) data.Next(1, &batch);
    return batch.token_ids;
  };
  EXPECT_EQ(order(1, 0), order(1, 0));
  EXPECT_NE(order(1, 0), order(1, 1));
  EXPECT_NE(order(1, 0), order(2, 0));
}

TEST(PairDataset, RowsOfChosenThenRejected) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {4, 6, 3, 9}, 2, 1 << 20, true);
  DatasetOptions options;
  options.row_tokens = 8;
  options.shuffle = false;
  options.epochs = 1;
  PairDataset data(&store, options, 0);
  PackedBatch batch;
  ASSERT_TRUE(data.Next(2, &batch));
  ASSERT_EQ(batch.rows, 4);
  const auto row = [&](int r, const auto& values) {
    return std::vector<int64_t>(values.begin() + 8 * r, values.begin() + 8 * r + 8);
  };
  EXPECT_THAT(row(0, batch.token_ids), ElementsAre(0, 1, 2, 3, 0, 0, 0, 0));
  EXPECT_THAT(row(1, batch.token_ids), ElementsAre(200, 201, 202, 0, 0, 0, 0, 0));
  EXPECT_THAT(row(2, batch.token_ids), ElementsAre(100, 101, 102, 103, 104, 105, 0, 0));
  // Cut at the row's end, with the token behind the cut as the last target.
  EXPECT_THAT(row(3, batch.token_ids), ElementsAre(300, 301, 302, 303, 304, 305, 306, 307));
  EXPECT_THAT(row(3, batch.target_ids), ElementsAre(301, 302, 303, 304, 305, 306, 307, 308));
  EXPECT_THAT(row(0, batch.loss_mask), ElementsAre(0, 1, 1, 0, 0, 0, 0, 0));
  EXPECT_THAT(row(3, batch.loss_mask), ElementsAre(0, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(row(0, batch.document_start), ElementsAre(1, 0, 0, 0, 1, 0, 0, 0));
  EXPECT_EQ(batch.trained_tokens, 2 + 1 + 4 + 7);
  EXPECT_FALSE(data.Next(1, &batch));
}

// Tokens of rows of eight; those of the prompt are 0, 1, ... of its document's hundred.
class LongPairs : public ::testing::Test {
 protected:
  void Open(const std::vector<int>& lengths, int prompt, int64_t prompt_tokens) {
    store_ = MakeStore(folder_.path(), lengths, prompt, 1 << 20, true);
    DatasetOptions options;
    options.row_tokens = 8;
    options.shuffle = false;
    options.epochs = 1;
    data_ = std::make_unique<PairDataset>(&*store_, options, prompt_tokens);
  }
  // The tokens of a row of the next pair, and how many targets count.
  std::vector<int64_t> Row(int row) const {
    return {batch_.token_ids.begin() + 8 * row, batch_.token_ids.begin() + 8 * row + 8};
  }
  int Targets(int row) const {
    return std::accumulate(batch_.loss_mask.begin() + 8 * row,
                           batch_.loss_mask.begin() + 8 * row + 8, 0);
  }

  testing::TemporaryDirectory folder_;
  std::optional<TokenStore> store_;
  std::unique_ptr<PairDataset> data_;
  PackedBatch batch_;
};

TEST_F(LongPairs, PromptsLoseTheirBeginningNotTheAnswerItsPlace) {
  // Prompts of ten; the first pair has answers of two and three.
  Open({12, 13, 30, 11}, 10, 0);
  EXPECT_EQ(data_->counts().pairs, 2);
  EXPECT_EQ(data_->counts().cut_prompts, 2);
  EXPECT_EQ(data_->counts().cut_answers, 1);
  ASSERT_TRUE(data_->Next(1, &batch_));
  EXPECT_THAT(Row(0), ElementsAre(6, 7, 8, 9, 10, 11, 0, 0));
  EXPECT_THAT(Row(1), ElementsAre(106, 107, 108, 109, 110, 111, 112, 0));
  EXPECT_EQ(Targets(0), 2);
  EXPECT_EQ(Targets(1), 3);
  ASSERT_TRUE(data_->Next(1, &batch_));
  EXPECT_THAT(Row(0), ElementsAre(206, 207, 208, 209, 210, 211, 212, 213));
  // The shorter one has the same prompt.
  EXPECT_THAT(Row(1), ElementsAre(306, 307, 308, 309, 310, 0, 0, 0));
  EXPECT_EQ(Targets(0), 5);  // the last one behind the row
  EXPECT_EQ(Targets(1), 1);
}

TEST_F(LongPairs, PromptsStayWholeWhereTheyFit) {
  Open({9, 7}, 6, 2);
  EXPECT_EQ(data_->counts().cut_prompts, 0);
  EXPECT_EQ(data_->counts().cut_answers, 0);
  ASSERT_TRUE(data_->Next(1, &batch_));
  EXPECT_THAT(Row(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(Targets(0), 3);
  EXPECT_EQ(Targets(1), 1);
}

TEST_F(LongPairs, AsManyTokensOfAPromptRemainAsAreAskedFor) {
  Open({12, 13}, 10, 7);
  ASSERT_TRUE(data_->Next(1, &batch_));
  EXPECT_THAT(Row(0), ElementsAre(3, 4, 5, 6, 7, 8, 9, 10));
  EXPECT_EQ(data_->counts().cut_answers, 1);
  EXPECT_THAT(ErrorOf([&] {
                Open({12, 13}, 10, 8);
              }),
              HasSubstr("prompt_tokens: expected less than a row of 8, found 8"));
}

TEST_F(LongPairs, PairsWithoutTwoAnswersAreLeftOut) {
  Open({3, 5, 5, 3, 5, 6}, 3, 0);
  EXPECT_EQ(data_->counts().pairs, 1);
  EXPECT_EQ(data_->counts().without_answer, 2);
  ASSERT_TRUE(data_->Next(1, &batch_));
  EXPECT_THAT(Row(0), ElementsAre(400, 401, 402, 403, 404, 0, 0, 0));
  EXPECT_FALSE(data_->Next(1, &batch_));
  EXPECT_THAT(ErrorOf([&] { data_->Seek({0, 1, 0}); }), HasSubstr("outside a store of 1"));
  EXPECT_THAT(ErrorOf([&] {
                Open({3, 5}, 3, 0);
              }),
              HasSubstr("not one of 1 preference pairs has an answer on both sides"));
}

TEST(PairDataset, WantsPairs) {
  testing::TemporaryDirectory folder;
  const TokenStore store = MakeStore(folder.path(), {4, 6});
  EXPECT_THAT(ErrorOf([&] { PairDataset(&store, {}, 0); }), HasSubstr("chosen"));
}

}  // namespace
}  // namespace mambad::trainer
