#include "trainer/formats/tensor_pickle.h"

#include <cstring>
#include <deque>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::trainer {
namespace {

using checkpoint::Quoted;

// A state dictionary of a thousand tensors takes some 200 KiB and 100,000 opcodes.
constexpr size_t kMostBytes = 16 << 20, kMostValues = 1 << 20;
constexpr size_t kLongestKey = 256;  // every tensor of a storage repeats its key
constexpr size_t kMostDimensions = 8;
constexpr int64_t kMostNumbers = int64_t{1} << 45;

// Values live in one arena and name each other by index: a pickle may put one of them in many
// places, itself included.
using Index = uint32_t;

struct None {};
struct Tuple {
  std::vector<Index> items;
};
struct List {};  // what is in it is never looked at
struct Dictionary {
  std::vector<std::pair<Index, Index>> items;
};
struct Class {
  std::string name;  // "module.Name"
};
struct Storage {
  std::string element, key;
  int64_t numbers = 0;
};

using Value = std::variant<None, bool, int64_t, double, std::string, Tuple, List, Dictionary, Class,
                           Storage, PickledTensor>;

constexpr char kOrderedDictionary[] = "collections.OrderedDict";
constexpr char kRebuildTensor[] = "torch._utils._rebuild_tensor_v2";
constexpr char kRebuildParameter[] = "torch._utils._rebuild_parameter";

// "Float" of "torch.FloatStorage"; empty for other classes.
std::string ElementOf(const std::string& name) {
  static constexpr const char* kElements[] = {"Float", "Half",  "BFloat16", "Double", "Long",
                                              "Int",   "Short", "Char",     "Byte",   "Bool"};
  for (const char* element : kElements) {
    if (name == absl::StrCat("torch.", element, "Storage")) return element;
  }
  return "";
}

// The machine that a pickle is a program for, cut down to what makes state dictionaries.
class Machine {
 public:
  Machine(const std::string& source, absl::Span<const std::byte> pickle)
      : source_(source), pickle_(reinterpret_cast<const char*>(pickle.data()), pickle.size()) {}

  std::map<std::string, PickledTensor> Run() {
    if (pickle_.size() > kMostBytes) {
      Fail(absl::StrCat(pickle_.size(), " bytes of pickle, at most ", kMostBytes, " expected"));
    }
    while (!stopped_) Step(static_cast<uint8_t>(Take(1)[0]));
    if (stack_.size() != 1 || !marks_.empty()) Fail("the pickle ends with more than one value");
    return Tensors(stack_[0]);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw std::runtime_error(
        absl::StrCat(source_, ": ", what, " (at byte ", at_, " of the pickle)"));
  }

  // ---- bytes ----
  std::string_view Take(size_t length) {
    if (length > pickle_.size() - at_) Fail("the pickle is truncated");
    at_ += length;
    return pickle_.substr(at_ - length, length);
  }
  template <typename T>
  T TakeNumber() {
    T value;
    std::memcpy(&value, Take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string TakeLine() {
    const size_t end = pickle_.find('\n', at_);
    if (end == std::string_view::npos) Fail("the pickle is truncated");
    const std::string line(pickle_.substr(at_, end - at_));
    at_ = end + 1;
    return line;
  }
  // Little endian, two's complement.
  int64_t TakeLong() {
    const size_t length = TakeNumber<uint8_t>();
    const std::string_view bytes = Take(length);
    if (length > 8) Fail(absl::StrCat("a whole number of ", length, " bytes, at most 8 expected"));
    uint64_t value = length > 0 && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = length; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    return static_cast<int64_t>(value);
  }
  double TakeDouble() {  // big endian
    const std::string_view bytes = Take(8);
    uint64_t bits = 0;
    for (const char byte : bytes) bits = bits << 8 | static_cast<uint8_t>(byte);
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  // ---- values ----
  void Push(Value value) {
    if (arena_.size() >= kMostValues) Fail("more values than any state dictionary has");
    arena_.push_back(std::move(value));
    stack_.push_back(static_cast<Index>(arena_.size() - 1));
  }
  Index Pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) Fail("a value is missing");
    const Index index = stack_.back();
    stack_.pop_back();
    return index;
  }
  Index Top() {
    const Index index = Pop();
    stack_.push_back(index);
    return index;
  }
  std::vector<Index> PopToMark() {
    if (marks_.empty()) Fail("a mark is missing");
    const size_t mark = marks_.back();
    marks_.pop_back();
    std::vector<Index> items(stack_.begin() + static_cast<int64_t>(mark), stack_.end());
    stack_.resize(mark);
    return items;
  }
  template <typename T>
  T& As(Index index, const char* expected) {
    T* value = std::get_if<T>(&arena_[index]);
    if (value == nullptr) Fail(absl::StrCat(expected, " expected"));
    return *value;
  }

  void Memoize(uint32_t slot) { memo_[slot] = Top(); }
  void Recall(uint32_t slot) {
    const auto it = memo_.find(slot);
    if (it == memo_.end()) Fail(absl::StrCat("memo ", slot, " is empty"));
    if (stack_.size() >= kMostValues) Fail("more values than any state dictionary has");
    stack_.push_back(it->second);
  }
  void PushTuple(size_t count) {
    Tuple tuple;
    tuple.items.resize(count);
    for (size_t i = count; i-- > 0;) tuple.items[i] = Pop();
    Push(std::move(tuple));
  }

  // ---- opcodes: names and numbers are those of Python's pickletools ----
  void Step(uint8_t opcode) {
    if (StepConstant(opcode) || StepContainer(opcode) || StepObject(opcode)) return;
    Fail(absl::StrFormat("pickle opcode 0x%02x is not part of a state dictionary", opcode));
  }

  bool StepConstant(uint8_t opcode) {
    switch (opcode) {
      case 'N':
        Push(None{});
        return true;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        Push(opcode == 0x88);
        return true;
      case 'J':  // BININT
        Push(int64_t{TakeNumber<int32_t>()});
        return true;
      case 'K':  // BININT1
        Push(int64_t{TakeNumber<uint8_t>()});
        return true;
      case 'M':  // BININT2
        Push(int64_t{TakeNumber<uint16_t>()});
        return true;
      case 0x8a:  // LONG1
        Push(TakeLong());
        return true;
      case 'G':  // BINFLOAT
        Push(TakeDouble());
        return true;
      case 'X':  // BINUNICODE
        Push(std::string(Take(TakeNumber<uint32_t>())));
        return true;
      case 0x8c:  // SHORT_BINUNICODE
        Push(std::string(Take(TakeNumber<uint8_t>())));
        return true;
      default:
        return false;
    }
  }

  bool StepContainer(uint8_t opcode) {
    switch (opcode) {
      case '(':  // MARK
        marks_.push_back(stack_.size());
        if (marks_.size() > kMostValues) Fail("more marks than any state dictionary has");
        return true;
      case ')':  // EMPTY_TUPLE
        Push(Tuple{});
        return true;
      case 0x85:  // TUPLE1
      case 0x86:
      case 0x87:
        PushTuple(opcode - 0x84);
        return true;
      case 't':  // TUPLE
        Push(Tuple{PopToMark()});
        return true;
      case ']':  // EMPTY_LIST
        Push(List{});
        return true;
      case 'a':  // APPEND
        Pop();
        As<List>(Top(), "a list");
        return true;
      case 'e':  // APPENDS
        PopToMark();
        As<List>(Top(), "a list");
        return true;
      case '}':  // EMPTY_DICT
        Push(Dictionary{});
        return true;
      case 's': {  // SETITEM
        const Index value = Pop(), key = Pop();
        As<Dictionary>(Top(), "a dictionary").items.emplace_back(key, value);
        return true;
      }
      case 'u': {  // SETITEMS
        const std::vector<Index> items = PopToMark();
        if (items.size() % 2 != 0) Fail("a key without value");
        Dictionary& dictionary = As<Dictionary>(Top(), "a dictionary");
        for (size_t i = 0; i < items.size(); i += 2) {
          dictionary.items.emplace_back(items[i], items[i + 1]);
        }
        return true;
      }
      default:
        return false;
    }
  }

  bool StepObject(uint8_t opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        const int protocol = TakeNumber<uint8_t>();
        if (protocol < 2 || protocol > 5) Fail(absl::StrCat("pickle protocol ", protocol));
        return true;
      }
      case 0x95:  // FRAME
        TakeNumber<uint64_t>();
        return true;
      case 'q':  // BINPUT
        Memoize(TakeNumber<uint8_t>());
        return true;
      case 'r':  // LONG_BINPUT
        Memoize(TakeNumber<uint32_t>());
        return true;
      case 0x94:  // MEMOIZE
        Memoize(static_cast<uint32_t>(memo_.size()));
        return true;
      case 'h':  // BINGET
        Recall(TakeNumber<uint8_t>());
        return true;
      case 'j':  // LONG_BINGET
        Recall(TakeNumber<uint32_t>());
        return true;
      case 'c': {  // GLOBAL
        const std::string module = TakeLine();
        PushClass(absl::StrCat(module, ".", TakeLine()));
        return true;
      }
      case 0x93: {  // STACK_GLOBAL
        const Index name = Pop(), module = Pop();
        PushClass(absl::StrCat(As<std::string>(module, "a module's name"), ".",
                               As<std::string>(name, "a class's name")));
        return true;
      }
      case 'Q':  // BINPERSID
        Push(MakeStorage(Pop()));
        return true;
      case 'R': {  // REDUCE
        const Index arguments = Pop(), callee = Pop();
        Call(As<Class>(callee, "a class").name, As<Tuple>(arguments, "arguments").items);
        return true;
      }
      case 'b': {  // BUILD: attributes, of which a state dictionary has only _metadata
        Pop();
        As<Dictionary>(Top(), "a dictionary under attributes");
        return true;
      }
      case '.':  // STOP
        stopped_ = true;
        return true;
      default:
        return false;
    }
  }

  // ---- the few things that may be made ----
  void PushClass(std::string name) {
    const bool known = name == kOrderedDictionary || name == kRebuildTensor ||
                       name == kRebuildParameter || !ElementOf(name).empty();
    if (!known) {
      Fail(absl::StrCat("class ", Quoted(name),
                        " is not part of a state dictionary and is not created"));
    }
    Push(Class{std::move(name)});
  }

  // ("storage", class, key, device, numbers)
  Storage MakeStorage(Index id) {
    const std::vector<Index>& items = As<Tuple>(id, "a storage's description").items;
    if (items.size() != 5 || As<std::string>(items[0], "the word \"storage\"") != "storage") {
      Fail("a storage's description of five values expected");
    }
    Storage storage;
    storage.element = ElementOf(As<Class>(items[1], "a storage class").name);
    if (storage.element.empty()) Fail("a storage class expected");
    storage.key = As<std::string>(items[2], "a storage's key");
    storage.numbers = As<int64_t>(items[4], "a storage's size");
    if (storage.key.size() > kLongestKey) Fail("a storage's key that is too long");
    if (storage.numbers < 0 || storage.numbers > kMostNumbers) {
      Fail(absl::StrCat("a storage of ", storage.numbers, " numbers"));
    }
    return storage;
  }

  void Call(const std::string& callee, const std::vector<Index>& arguments) {
    if (callee == kOrderedDictionary) {
      if (!arguments.empty()) Fail("an OrderedDict made of arguments");
      return Push(Dictionary{});
    }
    if (callee == kRebuildTensor) {
      if (arguments.size() != 6 && arguments.size() != 7) Fail("a tensor of six values expected");
      return Push(MakeTensor(arguments));
    }
    if (callee == kRebuildParameter) {
      if (arguments.size() != 3) Fail("a parameter of three values expected");
      return Push(PickledTensor(As<PickledTensor>(arguments[0], "a tensor")));
    }
    Fail(absl::StrCat("class ", Quoted(callee), " is called, which no state dictionary does"));
  }

  std::vector<int64_t> Sizes(Index index) {
    const std::vector<Index>& items = As<Tuple>(index, "a tensor's sizes").items;
    if (items.size() > kMostDimensions) Fail(absl::StrCat(items.size(), " dimensions"));
    std::vector<int64_t> sizes;
    for (const Index item : items) {
      sizes.push_back(As<int64_t>(item, "a size"));
      if (sizes.back() < 0 || sizes.back() > kMostNumbers) Fail("a size out of range");
    }
    return sizes;
  }

  // (storage, offset, sizes, strides, requires_grad, hooks[, metadata])
  PickledTensor MakeTensor(const std::vector<Index>& arguments) {
    const Storage& storage = As<Storage>(arguments[0], "a storage");
    PickledTensor tensor;
    tensor.element = storage.element;
    tensor.storage = storage.key;
    tensor.storage_numbers = storage.numbers;
    tensor.offset = As<int64_t>(arguments[1], "a tensor's offset");
    tensor.shape = Sizes(arguments[2]);
    tensor.strides = Sizes(arguments[3]);
    if (tensor.shape.size() != tensor.strides.size()) Fail("as many strides as sizes expected");
    int64_t last = tensor.offset, numbers = 1;
    bool inside = tensor.offset >= 0;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      int64_t reach = 0;
      inside = inside && !__builtin_mul_overflow(numbers, tensor.shape[i], &numbers) &&
               !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) &&
               !__builtin_add_overflow(last, reach, &last);
    }
    if (!inside || numbers < 1 || numbers > storage.numbers || last >= storage.numbers) {
      Fail("a tensor that reaches beyond its storage, or has no numbers");
    }
    return tensor;
  }

  std::map<std::string, PickledTensor> Tensors(Index root) {
    std::map<std::string, PickledTensor> tensors;
    for (const auto& [key, value] : As<Dictionary>(root, "a dictionary of tensors").items) {
      const std::string& name = As<std::string>(key, "a tensor's name");
      const auto* tensor = std::get_if<PickledTensor>(&arena_[value]);
      if (tensor == nullptr) {
        Fail(absl::StrCat("entry ", Quoted(name), " is no tensor: a model's state dictionary, not ",
                          "a training checkpoint, expected"));
      }
      if (!tensors.emplace(name, *tensor).second) {
        Fail(absl::StrCat("tensor ", Quoted(name), " stands twice"));
      }
    }
    if (tensors.empty()) Fail("no tensors");
    return tensors;
  }

  const std::string& source_;
  std::string_view pickle_;
  size_t at_ = 0;
  bool stopped_ = false;
  std::deque<Value> arena_;
  std::vector<Index> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, Index> memo_;
};

}  // namespace

std::map<std::string, PickledTensor> ReadTensorPickle(const std::string& source,
                                                      absl::Span<const std::byte> pickle) {
  return Machine(source, pickle).Run();
}

}  // namespace mambad::trainer
