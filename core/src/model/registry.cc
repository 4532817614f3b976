#include "lockstep/core/model/registry.h"

#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/model/convnet.h"
#include "lockstep/core/model/mlp.h"

namespace lockstep {
namespace {

KeySpec dropout_key() {
  return float_key("dropout", "share of hidden units dropped in training")
      .or_default(0.0)
      .at_least(0)
      .below(1);
}

ModelEntry mlp_entry() {
  return {
      .name = "mlp",
      .own_keys = {int_list_key("hidden", "widths of the hidden layers").at_least(1), dropout_key(),
                   string_key("output", "softmax, or sigmoid for two classes")
                       .or_default(std::string("softmax"))
                       .one_of({"softmax", "sigmoid"})},
      .make = [](const KeyValues& own, const SampleSpec& spec) {
        bool is_sigmoid = own.get_string("output") == "sigmoid";
        return make_mlp({.hidden = own.get_int_list("hidden"),
                         .dropout = own.get_float("dropout"),
                         .loss = is_sigmoid ? LossKind::kSigmoidBinaryCrossEntropy
                                            : LossKind::kSoftmaxCrossEntropy},
                        spec);
      }};
}

ModelEntry convnet_entry() {
  return {
      .name = "convnet",
      .own_keys = {dropout_key(),
                   bool_key("batch_norm", "normalise after each convolution").or_default(false)},
      .make = [](const KeyValues& own, const SampleSpec& spec) {
        return make_convnet(
            {.dropout = own.get_float("dropout"), .batch_norm = own.get_bool("batch_norm")}, spec);
      }};
}

}  // namespace

ModelRegistry ModelRegistry::with_builtins() {
  ModelRegistry registry;
  registry.add(mlp_entry());
  registry.add(convnet_entry());
  return registry;
}

void ModelRegistry::add(ModelEntry entry) {
  for (const ModelEntry& other : entries_)
    LOCKSTEP_CHECK(other.name != entry.name, "two models are named '", entry.name, "'");
  entries_.push_back(std::move(entry));
}

Result<std::unique_ptr<TrainableModel>> ModelRegistry::make(std::string_view name,
                                                            const KeyValues& own,
                                                            const SampleSpec& spec) const {
  std::vector<std::string> names;
  for (const ModelEntry& entry : entries_) {
    if (entry.name == name) return entry.make(own, spec);
    names.push_back(entry.name);
  }
  std::string nearest = nearest_name(name, names);
  return invalid_argument_error(cat("no model '", name, "'",
                                    nearest.empty() ? "" : cat("; the nearest is '", nearest, "'"),
                                    "; known: ", join(names, ", ")));
}

}  // namespace lockstep
