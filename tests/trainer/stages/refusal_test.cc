// Wrong input is told before anything starts: no text is read, nothing is trained, nothing that was
// there is lost.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/convert.h"
#include "trainer/stages/new_model.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;
using ::testing::StartsWith;

// A teacher of eight layers in the folder; text that is not there, so that reading it is an error
// of its own.
class Refusal : public ::testing::Test {
 protected:
  Refusal() {
    fs::create_directories(Path("words"));
    testing::WriteSmallTokenizer(Path("words"), false);
    NewModelConfig numbers;
    numbers.family = NewModelConfig::Family::kLlama;
    numbers.width = 16;
    numbers.layers = 8;
    numbers.query_heads = 2;
    LanguageModel::Create(NewModelConfiguration(numbers, testing::kSmallVocabulary, Path("words")),
                          1, at::kCPU, at::kFloat)
        ->Save(Path("teacher"), checkpoint::StorageType::kFloat32, Path("words"));
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void MakeStudent(const std::string& name, double percent, bool overwrite = false) const {
    InitializeConfig config;
    config.overwrite = overwrite;
    config.teacher = Path("teacher");
    config.output = Path(name);
    config.layers.attention_percent = percent;
    RunInitialize(config);
  }
  template <typename Config>
  Config Configured() const {
    Config config;
    config.run.output = Path("run");
    config.run.device = DeviceChoice::kCpu;
    config.run.threads = 1;
    config.data.train = {Path("absent.txt")};
    return config;
  }
  template <typename Config>
  static Config TooLarge(Config config) {
    config.data.row_tokens = 1 << 20;
    config.loop.micro_batch = 1 << 16;
    return config;
  }

  testing::TemporaryDirectory folder_;
};

TEST_F(Refusal, InitializeDoesNotWriteOverWhatItReads) {
  MakeStudent("student", 50);
  const std::string teacher = ReadText(Path("teacher/model.safetensors"));
  const std::string mixers = ReadText(Path("student/model.safetensors"));
  fs::create_directory_symlink(Path("teacher"), Path("link"));
  InitializeConfig config;
  config.teacher = Path("teacher");
  for (const char* output : {"teacher", "teacher/", "words/../teacher", "link"}) {
    config.output = Path(output);
    EXPECT_THAT(ErrorOf([&] { RunInitialize(config); }), HasSubstr("is the teacher too")) << output;
  }
  config.output = Path("student");
  config.start.trained_mixers = Path("student");
  EXPECT_THAT(ErrorOf([&] { RunInitialize(config); }),
              HasSubstr("is the start.trained_mixers too"));
  EXPECT_EQ(ReadText(Path("teacher/model.safetensors")), teacher);
  EXPECT_EQ(ReadText(Path("student/model.safetensors")), mixers);
}

TEST_F(Refusal, InitializeReplacesModelsAndNothingElse) {
  InitializeConfig config;
  config.teacher = Path("teacher");
  config.output = Path("words");
  EXPECT_THAT(ErrorOf([&] { RunInitialize(config); }), HasSubstr("found other files"));
  EXPECT_TRUE(fs::exists(Path("words/tokenizer.json")));
  MakeStudent("student/", 50);
  const std::string half = ReadText(Path("student/model.safetensors"));
  EXPECT_THAT(
      ErrorOf([&] { MakeStudent("student", 25); }),
      HasSubstr("holds a model that `trainer initialize` made with other settings (expected "
                "\"attention_percent: 50\", found \"attention_percent: 25\"); give another "
                "output, or overwrite: true"));
  MakeStudent("student", 50);  // the same again
  EXPECT_EQ(ReadText(Path("student/model.safetensors")), half);
  MakeStudent("student", 25, /*overwrite=*/true);
  EXPECT_NE(ReadText(Path("student/model.safetensors")), half);
  EXPECT_THAT(
      ReadText(Path("student/config.yaml")),
      ::testing::AllOf(StartsWith("# trainer initialize\n"), HasSubstr("attention_percent: 25\n")));
  EXPECT_FALSE(fs::exists(Path("student.unfinished")));
}

// The teacher that somebody has put there, or that a run has trained.
TEST_F(Refusal, ConvertDoesNotWriteOverAModelOfAnotherOrigin) {
  MakeStudent("student", 50);
  const std::string teacher = ReadText(Path("teacher/model.safetensors"));
  ConvertConfig config;
  config.input = Path("student");
  config.output = Path("teacher");
  EXPECT_THAT(ErrorOf([&] { RunConvert(config); }),
              HasSubstr("teacher: holds a model without a config.yaml that tells how it was made; "
                        "give another output, or overwrite: true (--overwrite) to replace it"));
  testing::WriteText(Path("config.yaml"), "# trainer pretrain\n");
  EXPECT_THAT(ErrorOf([&] { RunConvert(config); }),
              HasSubstr("holds the model of the run of `trainer pretrain` in " + folder_.path()));
  EXPECT_EQ(ReadText(Path("teacher/model.safetensors")), teacher);
  config.input = Path("teacher");
  EXPECT_THAT(ErrorOf([&] { RunConvert(config); }), HasSubstr("is the input too"));
  config.input = Path("student");
  config.overwrite = true;
  RunConvert(config);
  EXPECT_NE(ReadText(Path("teacher/model.safetensors")), teacher);
  // A failure leaves what was there.
  const std::string now = ReadText(Path("teacher/model.safetensors"));
  config.input = Path("words");
  EXPECT_NE(ErrorOf([&] { RunConvert(config); }), "nothing was thrown");
  EXPECT_EQ(ReadText(Path("teacher/model.safetensors")), now);
  EXPECT_FALSE(fs::exists(Path("teacher.unfinished")));
}

TEST_F(Refusal, ATokenizerIsNotReplacedUnderAModel) {
  testing::WriteText(Path("few.txt"), "Tom had a cat.\nLily had a dog.\n");
  TokenizerConfig config;
  config.train = {Path("few.txt")};
  config.vocabulary = 300;
  config.output = Path("teacher");
  config.overwrite = true;
  EXPECT_THAT(ErrorOf([&] { RunTokenizer(config); }), HasSubstr("is a model's directory"));
  config.overwrite = false;
  config.output = Path("made");
  RunTokenizer(config);
  RunTokenizer(config);
  config.vocabulary = 290;
  EXPECT_THAT(ErrorOf([&] { RunTokenizer(config); }),
              HasSubstr("(expected \"vocabulary: 300\", found \"vocabulary: 290\")"));
  config.overwrite = true;
  RunTokenizer(config);
  EXPECT_THAT(ReadText(Path("made/config.yaml")), HasSubstr("vocabulary: 290\n"));
}

TEST_F(Refusal, AFirstStartThatFailsLeavesNoFolder) {
  auto config = Configured<PretrainConfig>();
  config.tokenizer = Path("words");
  EXPECT_THAT(ErrorOf([&] { RunPretrain(config); }), HasSubstr("absent.txt"));
  EXPECT_FALSE(fs::exists(Path("run")));
  // Nor half of the tokens.
  config.data.train = {Path("malformed.jsonl")};
  testing::WriteText(config.data.train[0], "{\"text\": \"a\"}\n{\"text\": 7}\n");
  EXPECT_THAT(ErrorOf([&] { RunPretrain(config); }), HasSubstr("malformed.jsonl:2"));
  EXPECT_FALSE(fs::exists(Path("run")));
  config.data.train = {Path("absent.txt")};
  // One that was there stays.
  fs::create_directories(Path("run"));
  EXPECT_THAT(ErrorOf([&] { RunPretrain(config); }), HasSubstr("absent.txt"));
  EXPECT_TRUE(fs::exists(Path("run")));
}

TEST_F(Refusal, AWarmUpThatNeverEndsIsRefused) {
  auto config = Configured<DraftConfig>();
  config.target = Path("teacher");
  config.loop.steps = 100;
  config.acceptance_steps = 60;
  config.loop.warmup_steps = 101;
  EXPECT_THAT(ErrorOf([&] { RunDraft(config); }),
              HasSubstr("loop.warmup_steps: expected at most loop.steps, which is 100, found 101"));
  config.loop.warmup_steps = 100;
  EXPECT_THAT(ErrorOf([&] { RunDraft(config); }),
              HasSubstr("expected at most acceptance_steps, which is 60, found 100"));
  config.loop.warmup_steps = LoopConfig::kShareOfSteps;
  EXPECT_THAT(ErrorOf([&] { RunDraft(config); }), HasSubstr("absent.txt"));
}

TEST_F(Refusal, PlansReplacePlansOnly) {
  PlanConfig config;
  config.model = Path("teacher");
  config.output = Path("notes.md");
  RunPlan(config);
  RunPlan(config);
  testing::WriteText(Path("notes.md"), "mine\n");
  EXPECT_THAT(ErrorOf([&] { RunPlan(config); }), HasSubstr("is a file that is no plan"));
  EXPECT_EQ(ReadText(Path("notes.md")), "mine\n");
}

TEST_F(Refusal, AllPhasesAreCheckedBeforeTheFirst) {
  auto config = Configured<DistillConfig>();
  config.teacher = Path("teacher");
  const auto error = [&](double first, double second) {
    config.phases.resize(2);
    config.phases[0].layers.attention_percent = first;
    config.phases[1].layers.attention_percent = second;
    return ErrorOf([&] { RunDistill(config); });
  };
  EXPECT_THAT(error(50, 26), HasSubstr("phases[1]: attention_percent: expected 100, 75"));
  EXPECT_THAT(error(25, 50), HasSubstr("phases[1]: layer 1 is Mamba-2 already"));
  EXPECT_THAT(error(50, 25), HasSubstr("absent.txt"));  // nothing else is wrong
  // What new layers are to take has to be there for all of them.
  MakeStudent("half", 50);
  config.start.trained_mixers = Path("half");
  EXPECT_THAT(error(50, 25), HasSubstr("phases[1]: trained mixers: layer 1 has no "));
  EXPECT_THAT(error(75, 50), HasSubstr("absent.txt"));
}

TEST_F(Refusal, NothingToTrainIsSaidOfTheStudent) {
  auto config = Configured<DistillConfig>();
  config.teacher = config.student = Path("teacher");
  EXPECT_THAT(ErrorOf([&] { RunDistill(config); }),
              StartsWith("student: no layer of it is recurrent"));
  config.trained = TrainedPart::kAll;
  EXPECT_THAT(ErrorOf([&] { RunDistill(config); }), HasSubstr("absent.txt"));
  auto align = Configured<AlignConfig>();
  align.teacher = align.student = Path("teacher");
  EXPECT_THAT(ErrorOf([&] { RunAlign(align); }),
              StartsWith("student: no layer of it is recurrent"));
}

// Of what configurations say, before weights or text are read.
TEST_F(Refusal, TooLittleMemoryComesFirst) {
  MakeStudent("student", 50);
  const auto is_too_large = [&](const auto& run) {
    EXPECT_THAT(ErrorOf(run), HasSubstr("too little memory on cpu: about "));
    EXPECT_FALSE(fs::exists(Path("run/tokens")));
  };
  auto pretrain = TooLarge(Configured<PretrainConfig>());
  pretrain.tokenizer = Path("words");
  is_too_large([&] { RunPretrain(pretrain); });
  auto finetune = TooLarge(Configured<FinetuneConfig>());
  finetune.student = Path("student");
  is_too_large([&] { RunFinetune(finetune); });
  auto preference = TooLarge(Configured<PreferenceConfig>());
  preference.student = Path("student");
  is_too_large([&] { RunPreference(preference); });
  auto align = TooLarge(Configured<AlignConfig>());
  align.teacher = Path("teacher");
  align.student = Path("student");
  is_too_large([&] { RunAlign(align); });
  auto distill = TooLarge(Configured<DistillConfig>());
  distill.teacher = Path("teacher");
  distill.student = Path("student");
  is_too_large([&] { RunDistill(distill); });
  auto draft = TooLarge(Configured<DraftConfig>());
  draft.target = Path("student");
  is_too_large([&] { RunDraft(draft); });
}

TEST_F(Refusal, SentencePieceSpeaksOfOurSettings) {
  testing::WriteText(Path("few.txt"), "Tom had a cat.\nLily had a dog.\n");
  TokenizerConfig config;
  config.output = Path("made");
  config.train = {Path("few.txt")};
  config.vocabulary = 5000;
  EXPECT_EQ(ErrorOf([&] { RunTokenizer(config); }),
            "vocabulary: expected at most 305 for so little text, found 5000");
  config.vocabulary = 264;
  EXPECT_THAT(ErrorOf([&] { RunTokenizer(config); }),
              StartsWith("vocabulary: expected at least 274 (a piece for every character"));
  testing::WriteText(Path("few.txt"), "");
  EXPECT_EQ(ErrorOf([&] { RunTokenizer(config); }), "train: no text in it");
}

// ---- settings beside every result -------------------------------------------------------------

TEST_F(Refusal, CommandsKeepTheirSettings) {
  testing::WriteText(Path("few.txt"), "Tom had a cat.\nLily had a dog.\n");
  TokenizerConfig tokenizer;
  tokenizer.output = Path("made");
  tokenizer.train = {Path("few.txt")};
  tokenizer.vocabulary = 300;
  RunTokenizer(tokenizer);
  EXPECT_THAT(ReadText(Path("made/config.yaml")), HasSubstr("vocabulary: 300\n"));
  ConvertConfig convert;
  convert.input = Path("teacher");
  convert.output = Path("converted");
  RunConvert(convert);
  EXPECT_THAT(ReadText(Path("converted/config.yaml")),
              ::testing::AllOf(StartsWith("# trainer convert\n"), HasSubstr("stored: auto\n")));
}

// Six pairs in steps of two, twice.
TEST_F(Refusal, PreferenceKeepsTheStepsOfItsEpochs) {
  std::string lines;
  for (int pair = 0; pair < 6; ++pair) {
    lines += R"({"prompt": "one", "chosen": " and two", "rejected": " or three"})"
             "\n";
  }
  testing::WriteText(Path("pairs.jsonl"), lines);
  auto config = Configured<PreferenceConfig>();
  config.student = Path("teacher");
  config.data.train = {Path("pairs.jsonl")};
  config.data.prompts_are_chat = false;
  config.data.row_tokens = 64;
  config.prompt_tokens = 32;
  config.epochs = 2;
  config.loop.micro_batch = 2;
  config.loop.steps = 1000;
  RunPreference(config);
  const std::string settings = ReadText(Path("run/config.yaml"));
  EXPECT_THAT(settings, HasSubstr("  steps: 6\n"));
  EXPECT_THAT(settings, HasSubstr("epochs: 2\n"));
  // Going on is no other run.
  RunPreference(config);
  EXPECT_EQ(ReadText(Path("run/config.yaml")), settings);
}

}  // namespace
}  // namespace mambad::trainer
