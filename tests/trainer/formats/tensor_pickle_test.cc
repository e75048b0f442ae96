// Pickles of state dictionaries: those that Python writes, and those that nobody should send.

#include "trainer/formats/tensor_pickle.h"

#include <fstream>
#include <iterator>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/pytorch_writer.h"

namespace mambad::trainer {
namespace {

using mambad::testing::ErrorOf;
constexpr char kNoError[] = "nothing was thrown";
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::map<std::string, PickledTensor> Read(const std::string& pickle) {
  return ReadTensorPickle("file",
                          {reinterpret_cast<const std::byte*>(pickle.data()), pickle.size()});
}

std::string ErrorOfPickle(const std::string& pickle) {
  return ErrorOf([&] { Read(pickle); });
}

std::string Testdata(const std::string& name) {
  std::ifstream file(std::string(MAMBAD_FORMATS_TESTDATA) + "/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string Dictionary(const std::string& items) { return "\x80\x02}(" + items + "u."; }

std::string OneTensor(const std::string& tensor) {
  return Dictionary(PickledText("weight") + tensor);
}

class PythonPickle : public ::testing::TestWithParam<const char*> {};

TEST_P(PythonPickle, IsRead) {
  const auto tensors = Read(Testdata(GetParam()));
  ASSERT_EQ(tensors.size(), 8u);
  const PickledTensor& embedding = tensors.at("embedding.weight");
  EXPECT_EQ(embedding.element, "Float");
  EXPECT_EQ(embedding.storage, "0");
  EXPECT_EQ(embedding.storage_numbers, 12);
  EXPECT_EQ(embedding.offset, 0);
  EXPECT_THAT(embedding.shape, ElementsAre(3, 4));
  EXPECT_THAT(embedding.strides, ElementsAre(4, 1));
  EXPECT_EQ(tensors.at("head.weight").storage, "0");
  EXPECT_THAT(tensors.at("transposed").strides, ElementsAre(1, 4));
  EXPECT_EQ(tensors.at("cut").offset, 5);
  EXPECT_EQ(tensors.at("half").element, "Half");
  EXPECT_THAT(tensors.at("half").shape, ElementsAre(300));
  EXPECT_EQ(tensors.at("brain").element, "BFloat16");
  EXPECT_EQ(tensors.at("brain").storage_numbers, 70000);
  EXPECT_EQ(tensors.at("position_ids").element, "Long");
  EXPECT_THAT(tensors.at("scalar").shape, IsEmpty());
}

// Every prefix of a good pickle is an error, none a crash.
TEST_P(PythonPickle, TruncatedIsAnError) {
  const std::string pickle = Testdata(GetParam());
  for (size_t length = 0; length < pickle.size(); ++length) {
    EXPECT_THAT(ErrorOfPickle(pickle.substr(0, length)), HasSubstr("file: ")) << length << " bytes";
  }
}

// Whatever one changed byte does, it is a dictionary of tensors or an error.
TEST_P(PythonPickle, ChangedBytesAreHarmless) {
  const std::string pickle = Testdata(GetParam());
  for (size_t i = 0; i < pickle.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = pickle;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      ErrorOfPickle(changed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Protocols, PythonPickle,
                         ::testing::Values("state_dict_protocol2.pkl", "state_dict_protocol4.pkl"));

TEST(TensorPickle, LargeSizesAreRead) {
  const int64_t rows = int64_t{1} << 33;
  const auto tensors =
      Read(OneTensor(PickledTensorOf(PickledStorage("Float", "0", rows), 0, {rows}, {1})));
  EXPECT_THAT(tensors.at("weight").shape, ElementsAre(rows));
}

// ---- what must not be run ----------------------------------------------------------------------

TEST(TensorPickle, ClassesAreNotCreated) {
  EXPECT_THAT(ErrorOfPickle("\x80\x02" + PickledClass("os", "system") + "(" +
                            PickledText("touch /tmp/x") + "tR."),
              HasSubstr("\"os.system\" is not part of a state dictionary"));
  EXPECT_THAT(ErrorOfPickle("\x80\x04\x8c\x08"
                            "builtins\x8c\x04"
                            "eval\x93."),
              HasSubstr("\"builtins.eval\""));
  EXPECT_THAT(ErrorOfPickle(OneTensor(PickledClass("torch._utils", "_rebuild_qtensor"))),
              HasSubstr("\"torch._utils._rebuild_qtensor\""));
}

TEST(TensorPickle, OnlyKnownThingsAreCalled) {
  EXPECT_THAT(ErrorOfPickle(OneTensor(PickledClass("torch", "FloatStorage") + ")R")),
              HasSubstr("\"torch.FloatStorage\" is called"));
  EXPECT_THAT(ErrorOfPickle(OneTensor("K\x01)R")), HasSubstr("a class expected"));
  EXPECT_THAT(ErrorOfPickle(OneTensor(PickledClass("collections", "OrderedDict") + "K\x01\x85R")),
              HasSubstr("OrderedDict made of arguments"));
}

TEST(TensorPickle, UnknownOpcodesAreNamed) {
  // INST, OBJ, NEWOBJ, EXT1, PERSID, INT, BYTES, DUP: pickles have them, state dictionaries not.
  for (const char opcode : {'i', 'o', '\x81', '\x82', 'P', 'I', 'B', '2', '\xff'}) {
    const std::string error = ErrorOfPickle(std::string("\x80\x02") + opcode + "abcdefgh\n.");
    EXPECT_THAT(error, HasSubstr("is not part of a state dictionary"));
    char code[8];
    std::snprintf(code, sizeof(code), "0x%02x", static_cast<unsigned char>(opcode));
    EXPECT_THAT(error, HasSubstr(code));
  }
  EXPECT_THAT(ErrorOfPickle("\x80\x01."), HasSubstr("pickle protocol 1"));
}

// ---- what does not fit together ----------------------------------------------------------------

TEST(TensorPickle, TensorsStayInTheirStorage) {
  const auto error = [](const std::string& storage, int64_t offset,
                        const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    return ErrorOfPickle(OneTensor(PickledTensorOf(storage, offset, shape, strides)));
  };
  const std::string ten = PickledStorage("Float", "0", 10);
  EXPECT_EQ(error(ten, 0, {10}, {1}), kNoError);
  EXPECT_EQ(error(ten, 1, {3, 3}, {3, 1}), kNoError);
  EXPECT_THAT(error(ten, 0, {11}, {1}), HasSubstr("beyond its storage"));
  EXPECT_THAT(error(ten, 1, {10}, {1}), HasSubstr("beyond its storage"));
  EXPECT_THAT(error(ten, 0, {2}, {10}), HasSubstr("beyond its storage"));
  EXPECT_THAT(error(ten, -1, {2}, {1}), HasSubstr("beyond its storage"));
  EXPECT_THAT(error(ten, 0, {2, 2}, {-1, 1}), HasSubstr("out of range"));
  EXPECT_THAT(error(ten, 0, {-2}, {1}), HasSubstr("out of range"));
  EXPECT_THAT(error(ten, 0, {0}, {1}), HasSubstr("no numbers"));
  EXPECT_THAT(error(ten, 0, {4, 4}, {0, 1}), HasSubstr("beyond its storage"));
  EXPECT_THAT(error(ten, 0, {2}, {1, 1}), HasSubstr("as many strides"));
  const int64_t huge = int64_t{1} << 44;
  EXPECT_THAT(error(ten, 0, {huge, huge, huge}, {huge, huge, huge}),
              HasSubstr("beyond its storage"));
  EXPECT_THAT(error(PickledStorage("Float", "0", -1), 0, {1}, {1}), HasSubstr("storage of -1"));
  EXPECT_THAT(error(PickledStorage("Float", "0", INT64_MAX), 0, {1}, {1}), HasSubstr("storage of"));
  EXPECT_THAT(error(PickledStorage("Float", std::string(300, 'k'), 10), 0, {1}, {1}),
              HasSubstr("key that is too long"));
}

TEST(TensorPickle, RootIsADictionaryOfTensors) {
  EXPECT_THAT(ErrorOfPickle("\x80\x02K\x01."), HasSubstr("a dictionary of tensors expected"));
  EXPECT_THAT(ErrorOfPickle("\x80\x02}."), HasSubstr("no tensors"));
  EXPECT_THAT(ErrorOfPickle(Dictionary(PickledText("epoch") + "K\x07")),
              HasSubstr("entry \"epoch\" is no tensor"));
  EXPECT_THAT(ErrorOfPickle(Dictionary("K\x07K\x07")), HasSubstr("a tensor's name expected"));
  const std::string tensor = PickledTensorOf(PickledStorage("Float", "0", 1), 0, {1}, {1});
  EXPECT_THAT(ErrorOfPickle(Dictionary(PickledText("a") + tensor + PickledText("a") + tensor)),
              HasSubstr("\"a\" stands twice"));
}

TEST(TensorPickle, StackIsKept) {
  for (const char* pickle :
       {"\x80\x02.", "\x80\x02t.", "\x80\x02(.", "\x80\x02u.", "\x80\x02}s.", "\x80\x02\x86.",
        "\x80\x02R.", "\x80\x02Q.", "\x80\x02h\x07.", "\x80\x02q\x01.", "\x80\x02](e(e.",
        "\x80\x02}(K\x01u.", "\x80\x02}(s.", "\x80\x02]K\x01u.", "\x80\x02N(\x85."}) {
    EXPECT_THAT(ErrorOfPickle(pickle), HasSubstr("file: ")) << pickle;
  }
}

// Memo slots make large structures of few bytes; nothing here follows them.
TEST(TensorPickle, SelfReferencesAreHarmless) {
  EXPECT_THAT(ErrorOfPickle("\x80\x02}q\x01X\x01" + std::string(3, '\0') + "ah\x01s."),
              HasSubstr("entry \"a\" is no tensor"));
  EXPECT_THAT(ErrorOfPickle("\x80\x02]q\x01h\x01"
                            "ah\x01"
                            "ah\x01"
                            "a."),
              HasSubstr("dictionary of tensors"));
}

TEST(TensorPickle, ManyValuesAreRefused) {
  std::string pickle = "\x80\x02";
  for (int i = 0; i < (1 << 20) + 1; ++i) pickle += "N";
  EXPECT_THAT(ErrorOfPickle(pickle + "."), HasSubstr("more values"));
  EXPECT_THAT(ErrorOfPickle("\x80\x02" + std::string(17 << 20, 'N') + "."),
              HasSubstr("bytes of pickle"));
}

}  // namespace
}  // namespace mambad::trainer
