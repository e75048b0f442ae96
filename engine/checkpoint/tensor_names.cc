#include "engine/checkpoint/tensor_names.h"

#include <algorithm>

namespace mambad::checkpoint {
namespace {

constexpr char kHead[] = "lm_head.weight";

bool AllBeginWith(const std::set<std::string>& names, const std::string& prefix) {
  return !names.empty() && std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return name.starts_with(prefix);
  });
}

bool AnyBeginsWith(const std::set<std::string>& names, const std::string& prefix) {
  const auto it = names.lower_bound(prefix);
  return it != names.end() && it->starts_with(prefix);
}

class Renaming {
 public:
  explicit Renaming(const std::set<std::string>& names) : now_(names) {
    for (const std::string& name : names) original_[name] = name;
  }

  const std::set<std::string>& now() const { return now_; }
  bool Has(const std::string& name) const { return now_.contains(name); }

  // Nothing happens to a name whose place is taken.
  void Rename(const std::string& from, const std::string& to) {
    if (from == to || now_.contains(to) || now_.erase(from) == 0) return;
    now_.insert(to);
    original_[to] = original_[from];
    original_.erase(from);
  }
  // Whether it was there.
  bool TakeOff(const std::string& prefix) {
    if (!AllBeginWith(now_, prefix)) return false;
    for (const std::string& name : std::set<std::string>(now_)) {
      Rename(name, name.substr(prefix.size()));
    }
    return true;
  }
  void PutOn(const std::string& prefix) {
    for (const std::string& name : std::set<std::string>(now_)) {
      if (name != kHead) Rename(name, prefix + name);
    }
  }
  std::map<std::string, std::string> Changed() const {
    std::map<std::string, std::string> changed;
    for (const auto& [name, original] : original_) {
      if (name != original) changed[original] = name;
    }
    return changed;
  }

 private:
  std::set<std::string> now_;
  std::map<std::string, std::string> original_;  // by the name that it has now
};

}  // namespace

std::map<std::string, std::string> LayoutNames(const std::set<std::string>& names,
                                               const nlohmann::json& config) {
  Renaming renaming(names);
  while (renaming.TakeOff("module.") || renaming.TakeOff("_orig_mod.")) {
  }
  if (renaming.Has("embed_tokens.weight") && !AnyBeginsWith(renaming.now(), "model.")) {
    renaming.PutOn("model.");
  }
  if (renaming.Has("norm_f.weight") && !AnyBeginsWith(renaming.now(), "backbone.")) {
    renaming.PutOn("backbone.");
  }
  const std::string old_embedding = "backbone.embedding.weight";
  const std::string new_embedding = "backbone.embeddings.weight";
  const bool typed = config.is_object() && config.contains("model_type");
  renaming.Rename(typed ? old_embedding : new_embedding, typed ? new_embedding : old_embedding);
  const auto tie = config.find("tie_word_embeddings");
  const bool untied = tie != config.end() && tie->is_boolean() && !tie->get<bool>();
  if (renaming.Has(kHead) && !untied) {
    if (AnyBeginsWith(renaming.now(), "backbone.")) {
      if (!renaming.Has(old_embedding) && !renaming.Has(new_embedding)) {
        renaming.Rename(kHead, typed ? new_embedding : old_embedding);
      }
    } else if (AnyBeginsWith(renaming.now(), "model.")) {
      renaming.Rename(kHead, "model.embed_tokens.weight");
    }
  }
  return renaming.Changed();
}

}  // namespace mambad::checkpoint
