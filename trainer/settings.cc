#include "trainer/settings.h"

#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

// The shortest text that reads back to the same number.
std::string RealText(double value) {
  for (int digits = 6; digits < 17; ++digits) {
    const std::string text = absl::StrFormat("%.*g", digits, value);
    double read = 0;
    if (absl::SimpleAtod(text, &read) && read == value) return text;
  }
  return absl::StrFormat("%.17g", value);
}

std::string RangeText(const std::string& low, const std::string& high, bool bounded) {
  return bounded ? "from " + low + " to " + high : "of " + low + " or more";
}

std::string WholeRange(int64_t low, int64_t high) {
  return RangeText(absl::StrFormat("%d", low), absl::StrFormat("%d", high),
                   high != Settings::kNoBound);
}

std::string RealRange(double low, double high) {
  return RangeText(RealText(low), RealText(high), std::isfinite(high));
}

class Reader : public Settings {
 public:
  Reader(std::string path, const YAML::Node& root) : path_(std::move(path)) { Enter(root, ""); }

  void Whole(const char* key, int64_t* value, int64_t low, int64_t high, const char*) override {
    const YAML::Node node = Find(key);
    if (node.IsDefined()) *value = WholeOf(node, key, low, high);
  }
  void Real(const char* key, double* value, double low, double high, const char*) override {
    const YAML::Node node = Find(key);
    if (!node.IsDefined()) return;
    double read = 0;
    if (!node.IsScalar() || !absl::SimpleAtod(node.Scalar(), &read) || !(read >= low) ||
        !(read <= high)) {
      Refuse(node, key, "a number " + RealRange(low, high));
    }
    *value = read;
  }
  void Flag(const char* key, bool* value, const char*) override {
    const YAML::Node node = Find(key);
    if (!node.IsDefined()) return;
    if (!node.IsScalar() || (node.Scalar() != "true" && node.Scalar() != "false")) {
      Refuse(node, key, "true or false");
    }
    *value = node.Scalar() == "true";
  }
  void Text(const char* key, std::string* value, Need need, const char*) override {
    const YAML::Node node = Find(key);
    if (node.IsDefined()) *value = TextOf(node, key);
    if (need == Need::kRequired && value->empty()) RefuseMissing(node, key, "a text");
  }
  void Texts(const char* key, std::vector<std::string>* value, Need need, const char*) override {
    const YAML::Node node = Find(key);
    if (node.IsDefined()) {
      value->clear();
      if (node.IsScalar()) {
        value->push_back(TextOf(node, key));
      } else if (node.IsSequence()) {
        for (const YAML::Node& item : node) value->push_back(TextOf(item, key));
      } else {
        Refuse(node, key, "a list of texts");
      }
    }
    if (need == Need::kRequired && value->empty()) RefuseMissing(node, key, "a list of texts");
  }
  void Wholes(const char* key, std::vector<int64_t>* value, int64_t low, int64_t high,
              const char*) override {
    const YAML::Node node = Find(key);
    if (!node.IsDefined()) return;
    if (!node.IsSequence()) Refuse(node, key, "a list of whole numbers");
    value->clear();
    for (const YAML::Node& item : node) value->push_back(WholeOf(item, key, low, high));
  }
  void Section(const char* key, const char*, const std::function<void()>& fields) override {
    const YAML::Node node = Find(key);
    Enter(node.IsDefined() ? node : YAML::Node(YAML::NodeType::Map), key);
    fields();
    Leave();
  }

  // Every key of the innermost map must have been asked for.
  void Leave() {
    const Level& level = levels_.back();
    for (const auto& entry : level.node) {
      const std::string key = entry.first.Scalar();
      if (level.known.count(key) == 0) {
        throw std::runtime_error(
            Place(entry.first) + "\"" + level.prefix + key + "\": no such key; expected " +
            (level.prefix.empty() ? "" : "one under \"" + level.name + "\": ") +
            absl::StrJoin(level.known, ", "));
      }
    }
    if (!level.missing.empty()) throw std::runtime_error(level.missing);
    levels_.pop_back();
  }

 protected:
  void ChoiceIndex(const char* key, int* index, const std::vector<std::string>& names,
                   const char*) override {
    const YAML::Node node = Find(key);
    if (!node.IsDefined()) return;
    for (size_t i = 0; node.IsScalar() && i < names.size(); ++i) {
      if (node.Scalar() == names[i]) {
        *index = static_cast<int>(i);
        return;
      }
    }
    Refuse(node, key, "one of " + absl::StrJoin(names, ", "));
  }
  void ItemList(const char* key, const char*, size_t, const std::function<void(size_t)>& resize,
                const std::function<void(size_t)>& fields, const std::function<void()>&) override {
    const YAML::Node node = Find(key);
    if (!node.IsDefined()) return;
    if (!node.IsSequence()) Refuse(node, key, "a list");
    resize(node.size());
    for (size_t index = 0; index < node.size(); ++index) {
      Enter(node[index], absl::StrFormat("%s[%d]", key, index));
      fields(index);
      Leave();
    }
  }

 private:
  struct Level {
    YAML::Node node;
    std::string name, prefix;
    std::set<std::string> known;
    std::string missing;  // what there is to say of the first key that had to be given and was not
  };

  std::string Place(const YAML::Node& node) const {
    const YAML::Mark mark = node.Mark();
    return path_ + ":" + (mark.is_null() ? "" : std::to_string(mark.line + 1) + ":") + " ";
  }
  [[noreturn]] void Refuse(const YAML::Node& node, const std::string& key,
                           const std::string& expected) const {
    const std::string found = node.IsNull()       ? "nothing"
                              : node.IsScalar()   ? "\"" + node.Scalar() + "\""
                              : node.IsSequence() ? "a list"
                                                  : "a map";
    throw std::runtime_error(Place(node) + "\"" + levels_.back().prefix + key + "\": expected " +
                             expected + ", found " + found);
  }
  // Of a key that is not there, Leave speaks: one that is misspelt says more.
  void RefuseMissing(const YAML::Node& node, const std::string& key, const std::string& expected) {
    if (node.IsDefined()) Refuse(node, key, expected);
    std::string& missing = levels_.back().missing;
    if (!missing.empty()) return;
    missing = Place(levels_.back().node) + "\"" + levels_.back().prefix + key + "\": expected " +
              expected + ", found nothing";
  }
  void Enter(const YAML::Node& node, const std::string& name) {
    Level level;
    level.node.reset(node);
    if (!levels_.empty()) {
      level.name = levels_.back().prefix + name;
      level.prefix = level.name + ".";
    }
    if (!node.IsMap()) {
      throw std::runtime_error(Place(node) + (name.empty() ? "" : "\"" + level.name + "\": ") +
                               "expected keys with values");
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar())
        throw std::runtime_error(Place(entry.first) + "a key is no text");
      if (!seen.insert(entry.first.Scalar()).second) {
        throw std::runtime_error(Place(entry.first) + "\"" + level.prefix + entry.first.Scalar() +
                                 "\": given twice");
      }
    }
    levels_.push_back(std::move(level));
  }
  YAML::Node Find(const std::string& key) {
    Level& level = levels_.back();
    level.known.insert(key);
    for (const auto& entry : level.node) {
      if (entry.first.Scalar() == key) return entry.second;
    }
    return YAML::Node(YAML::NodeType::Undefined);
  }
  int64_t WholeOf(const YAML::Node& node, const std::string& key, int64_t low, int64_t high) const {
    int64_t read = 0;
    if (!node.IsScalar() || !absl::SimpleAtoi(node.Scalar(), &read) || read < low || read > high) {
      Refuse(node, key, "a whole number " + WholeRange(low, high));
    }
    return read;
  }
  std::string TextOf(const YAML::Node& node, const std::string& key) const {
    if (!node.IsScalar()) Refuse(node, key, "a text");
    return node.Scalar();
  }

  std::string path_;
  std::vector<Level> levels_;
};

class Writer : public Settings {
 public:
  Writer() { out_ << YAML::BeginMap; }
  std::string Finish() {
    out_ << YAML::EndMap;
    return std::string(out_.c_str()) + "\n";
  }

  void Whole(const char* key, int64_t* value, int64_t, int64_t, const char*) override {
    out_ << YAML::Key << key << YAML::Value << std::to_string(*value);
  }
  void Real(const char* key, double* value, double, double, const char*) override {
    out_ << YAML::Key << key << YAML::Value << RealText(*value);
  }
  void Flag(const char* key, bool* value, const char*) override {
    out_ << YAML::Key << key << YAML::Value << (*value ? "true" : "false");
  }
  void Text(const char* key, std::string* value, Need, const char*) override {
    out_ << YAML::Key << key << YAML::Value << YAML::DoubleQuoted << *value;
  }
  void Texts(const char* key, std::vector<std::string>* value, Need, const char*) override {
    out_ << YAML::Key << key << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const std::string& text : *value) out_ << YAML::DoubleQuoted << text;
    out_ << YAML::EndSeq;
  }
  void Wholes(const char* key, std::vector<int64_t>* value, int64_t, int64_t,
              const char*) override {
    out_ << YAML::Key << key << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const int64_t number : *value) out_ << std::to_string(number);
    out_ << YAML::EndSeq;
  }
  void Section(const char* key, const char*, const std::function<void()>& fields) override {
    out_ << YAML::Key << key << YAML::Value << YAML::BeginMap;
    fields();
    out_ << YAML::EndMap;
  }

 protected:
  void ChoiceIndex(const char* key, int* index, const std::vector<std::string>& names,
                   const char*) override {
    out_ << YAML::Key << key << YAML::Value << names.at(*index);
  }
  void ItemList(const char* key, const char*, size_t size, const std::function<void(size_t)>&,
                const std::function<void(size_t)>& fields, const std::function<void()>&) override {
    out_ << YAML::Key << key << YAML::Value << YAML::BeginSeq;
    for (size_t index = 0; index < size; ++index) {
      out_ << YAML::BeginMap;
      fields(index);
      out_ << YAML::EndMap;
    }
    out_ << YAML::EndSeq;
  }

 private:
  YAML::Emitter out_;
};

class TextCollector : public Settings {
 public:
  std::vector<std::pair<std::string, std::string>> found;

  void Whole(const char*, int64_t*, int64_t, int64_t, const char*) override {}
  void Real(const char*, double*, double, double, const char*) override {}
  void Flag(const char*, bool*, const char*) override {}
  void Text(const char* key, std::string* value, Need, const char*) override {
    found.emplace_back(prefix_ + key, *value);
  }
  void Texts(const char* key, std::vector<std::string>* value, Need, const char*) override {
    for (const std::string& text : *value) found.emplace_back(prefix_ + key, text);
  }
  void Wholes(const char*, std::vector<int64_t>*, int64_t, int64_t, const char*) override {}
  void Section(const char* key, const char*, const std::function<void()>& fields) override {
    const std::string outer = prefix_;
    prefix_ += std::string(key) + ".";
    fields();
    prefix_ = outer;
  }

 protected:
  void ChoiceIndex(const char*, int*, const std::vector<std::string>&, const char*) override {}
  void ItemList(const char* key, const char*, size_t size, const std::function<void(size_t)>&,
                const std::function<void(size_t)>& fields, const std::function<void()>&) override {
    for (size_t index = 0; index < size; ++index) {
      Section(absl::StrFormat("%s[%d]", key, index).c_str(), "", [&] { fields(index); });
    }
  }

 private:
  std::string prefix_;
};

class Explainer : public Settings {
 public:
  std::string text;

  void Whole(const char* key, int64_t* value, int64_t low, int64_t high,
             const char* meaning) override {
    Line(key, std::to_string(*value),
         std::string(meaning) + " (whole number " + WholeRange(low, high) + ")");
  }
  void Real(const char* key, double* value, double low, double high, const char* meaning) override {
    Line(key, RealText(*value), std::string(meaning) + " (number " + RealRange(low, high) + ")");
  }
  void Flag(const char* key, bool* value, const char* meaning) override {
    Line(key, *value ? "true" : "false", meaning);
  }
  void Text(const char* key, std::string* value, Need need, const char* meaning) override {
    Line(key, need == Need::kRequired ? "REQUIRED" : "\"" + *value + "\"", meaning);
  }
  void Texts(const char* key, std::vector<std::string>* value, Need need,
             const char* meaning) override {
    Line(key, need == Need::kRequired ? "REQUIRED" : "[" + absl::StrJoin(*value, ", ") + "]",
         meaning);
  }
  void Wholes(const char* key, std::vector<int64_t>* value, int64_t, int64_t,
              const char* meaning) override {
    Line(key, "[" + absl::StrJoin(*value, ", ") + "]", meaning);
  }
  void Section(const char* key, const char* meaning, const std::function<void()>& fields) override {
    text += absl::StrFormat("%s%s:  # %s\n", indent_, key, meaning);
    indent_ += "  ";
    fields();
    indent_.resize(indent_.size() - 2);
  }

 protected:
  void ChoiceIndex(const char* key, int* index, const std::vector<std::string>& names,
                   const char* meaning) override {
    Line(key, names.at(*index),
         std::string(meaning) + " (one of " + absl::StrJoin(names, ", ") + ")");
  }
  void ItemList(const char* key, const char* meaning, size_t, const std::function<void(size_t)>&,
                const std::function<void(size_t)>&, const std::function<void()>& example) override {
    Section(key, (std::string(meaning) + "; a list (- ...), empty by default").c_str(), example);
  }

 private:
  void Line(const char* key, const std::string& value, const std::string& meaning) {
    text += absl::StrFormat("%-34s # %s\n", indent_ + key + ": " + value, meaning);
  }
  std::string indent_ = "  ";
};

}  // namespace

void ReadSettings(const std::string& path, const DescribeFunction& describe) {
  YAML::Node root;
  if (std::filesystem::is_directory(path)) {
    throw std::runtime_error(path + ": a YAML file expected, found a directory");
  }
  errno = 0;
  try {
    root = YAML::LoadFile(path);
  } catch (const YAML::BadFile&) {
    throw std::runtime_error(path + ": cannot be read: " + std::strerror(errno));
  } catch (const YAML::ParserException& error) {
    throw std::runtime_error(
        absl::StrFormat("%s:%d: not valid YAML: %s", path, error.mark.line + 1, error.msg));
  }
  Reader reader(path, root);
  describe(&reader);
  reader.Leave();
}

std::string WriteSettings(const DescribeFunction& describe) {
  Writer writer;
  describe(&writer);
  return writer.Finish();
}

void KeepSettings(const std::string& directory, const std::string& command,
                  const DescribeFunction& describe) {
  WriteText(directory + "/config.yaml", "# trainer " + command + "\n" + WriteSettings(describe));
}

std::vector<std::pair<std::string, std::string>> TextsOf(const DescribeFunction& describe) {
  TextCollector collector;
  describe(&collector);
  return std::move(collector.found);
}

std::string ExplainSettings(const DescribeFunction& describe) {
  Explainer explainer;
  describe(&explainer);
  return std::move(explainer.text);
}

}  // namespace mambad::trainer
