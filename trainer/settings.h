// The settings of a command, described once: the same description reads them from YAML, echoes them
// and explains them.

#ifndef MAMBAD_TRAINER_SETTINGS_H_
#define MAMBAD_TRAINER_SETTINGS_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace mambad::trainer {

// What a struct of settings tells about its fields. A command has a function
//   void Describe(Settings* settings, XConfig* config);
// that calls one method a field, in the order in which people shall read them. `key` is the name in
// the file, `meaning` a line for people with the unit in it. The value that stands in the struct
// before is the default.
class Settings {
 public:
  enum class Need { kOptional, kRequired };
  static constexpr int64_t kNoBound = INT64_MAX;

  virtual ~Settings() = default;

  // Bounds are inclusive.
  virtual void Whole(const char* key, int64_t* value, int64_t low, int64_t high,
                     const char* meaning) = 0;
  virtual void Real(const char* key, double* value, double low, double high,
                    const char* meaning) = 0;
  virtual void Flag(const char* key, bool* value, const char* meaning) = 0;
  virtual void Text(const char* key, std::string* value, Need need, const char* meaning) = 0;
  // A list of texts; a single text counts as a list of one.
  virtual void Texts(const char* key, std::vector<std::string>* value, Need need,
                     const char* meaning) = 0;
  virtual void Wholes(const char* key, std::vector<int64_t>* value, int64_t low, int64_t high,
                      const char* meaning) = 0;
  // A group of settings under a name.
  virtual void Section(const char* key, const char* meaning,
                       const std::function<void()>& fields) = 0;
  // One of a few names.
  template <typename Enum>
  void Choice(const char* key, Enum* value, std::initializer_list<const char*> names,
              const char* meaning) {
    int index = static_cast<int>(*value);
    ChoiceIndex(key, &index, std::vector<std::string>(names.begin(), names.end()), meaning);
    *value = static_cast<Enum>(index);
  }
  // A list of groups, each described by Describe(settings, Item*).
  template <typename Item>
  void Items(const char* key, std::vector<Item>* items, const char* meaning) {
    ItemList(
        key, meaning, items->size(), [items](size_t size) { items->resize(size); },
        [this, items](size_t index) { Describe(this, &(*items)[index]); },
        [this] {
          Item example;
          Describe(this, &example);
        });
  }

 protected:
  virtual void ChoiceIndex(const char* key, int* index, const std::vector<std::string>& names,
                           const char* meaning) = 0;
  virtual void ItemList(const char* key, const char* meaning, size_t size,
                        const std::function<void(size_t)>& resize,
                        const std::function<void(size_t)>& fields,
                        const std::function<void()>& example) = 0;
};

using DescribeFunction = std::function<void(Settings*)>;

// Of a command's settings as they are now.
template <typename Config>
DescribeFunction DescriptionOf(const Config& config) {
  return [copy = config](Settings* settings) mutable { Describe(settings, &copy); };
}

// Sets what the file says. Throws std::runtime_error "file:line: "key": expected ..., found ..."
// for a file that is no YAML map, an unknown or repeated key, a wrong type, a number out of range,
// a required key without value.
void ReadSettings(const std::string& path, const DescribeFunction& describe);

// YAML that ReadSettings reads back to the same values, every key in it.
std::string WriteSettings(const DescribeFunction& describe);

// Writes config.yaml into the existing folder `directory`: what WriteSettings gives, below a
// comment that names the command. Throws std::runtime_error when it cannot be written.
void KeepSettings(const std::string& directory, const std::string& command,
                  const DescribeFunction& describe);

// The settings that are texts, names of files above all: "start.trained_mixers" and what it is. A
// list gives one entry a text.
std::vector<std::pair<std::string, std::string>> TextsOf(const DescribeFunction& describe);

// One line a key: name, kind, default, meaning.
std::string ExplainSettings(const DescribeFunction& describe);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_SETTINGS_H_
