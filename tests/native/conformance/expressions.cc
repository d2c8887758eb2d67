// getOutputShapes with symbolic dimensions: the builder's part of IExprBuilder, whose expressions are evaluated here
// for many sizes.
#include <algorithm>
#include <cstring>

#include "conformance.h"

namespace {

using conformance::Handle;
using conformance::require;
using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

// A constant, a symbol (a place in the list of sizes) or an operation.
class Expression : public nvinfer1::IDimensionExpr {
 public:
  Expression() { mImpl = &implementation_; }

  int64_t evaluate(const int64_t* sizes) const {
    if (symbol >= 0) return sizes[symbol];
    if (first == nullptr) return constant;
    const int64_t a = first->evaluate(sizes), b = second->evaluate(sizes);
    switch (operation) {
      case DimensionOperation::kSUM: return a + b;
      case DimensionOperation::kPROD: return a * b;
      case DimensionOperation::kMAX: return std::max(a, b);
      case DimensionOperation::kMIN: return std::min(a, b);
      case DimensionOperation::kSUB: return a - b;
      case DimensionOperation::kEQUAL: return a == b;
      case DimensionOperation::kLESS: return a < b;
      case DimensionOperation::kFLOOR_DIV:
        require(b > 0, "a dimension is divided by " + std::to_string(b));
        return (a < 0 ? a - b + 1 : a) / b;
      case DimensionOperation::kCEIL_DIV:
        require(b > 0, "a dimension is divided by " + std::to_string(b));
        return (a > 0 ? a + b - 1 : a) / b;
    }
    return 0;
  }

  bool is_constant() const {
    return symbol < 0 && (first == nullptr || (first->is_constant() && second->is_constant()));
  }

  int symbol = -1;
  int64_t constant = 0;
  DimensionOperation operation = DimensionOperation::kSUM;
  const Expression *first = nullptr, *second = nullptr;

 private:
  struct Implementation : nvinfer1::apiv::VDimensionExpr {
    explicit Implementation(const Expression& owner) : owner_(owner) {}
    bool isConstant() const override { return owner_.is_constant(); }
    int64_t getConstantValue() const override { return owner_.is_constant() ? owner_.evaluate(nullptr) : INT64_MIN; }
    bool isSizeTensor() const override { return false; }
    const Expression& owner_;
  };
  Implementation implementation_{*this};
};

class Builder : public nvinfer1::IExprBuilder {
 public:
  Builder() { mImpl = &implementation_; }

  Expression* make() {
    all_.push_back(std::make_unique<Expression>());
    return all_.back().get();
  }

  bool has(const IDimensionExpr* expression) const {
    return std::any_of(all_.begin(), all_.end(), [&](const auto& one) { return one.get() == expression; });
  }

  int operations = 0;

 private:
  struct Implementation : nvinfer1::apiv::VExprBuilder {
    explicit Implementation(Builder& owner) : owner_(owner) {}
    const IDimensionExpr* constant(int64_t value) override {
      Expression* const made = owner_.make();
      made->constant = value;
      return made;
    }
    const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                    const IDimensionExpr& second) override {
      if (!owner_.has(&first) || !owner_.has(&second)) return nullptr;
      ++owner_.operations;
      Expression* const made = owner_.make();
      made->operation = operation;
      made->first = static_cast<const Expression*>(&first);
      made->second = static_cast<const Expression*>(&second);
      return made;
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
      return nullptr;
    }
    Builder& owner_;
  };
  Implementation implementation_{*this};
  std::vector<std::unique_ptr<Expression>> all_;
};

}  // namespace

// Asks for the outputs' shapes with -1 for unknown dimensions, and evaluates them for `sizes`, which has the unknown
// ones' values in order, once for each of `repeats`. `results` gets ranks, then dimensions of all outputs for each
// repeat; `operations` the number of operations that the plugin built. The plugin's own code is returned.
CONFORMANCE_EXPORT int32_t conformance_shapes(Handle* handle, const nvinfer1::Dims* inputs, int32_t count,
                                              const int64_t* sizes, int32_t repeats, nvinfer1::Dims* results,
                                              int32_t* operations) {
  return conformance::checked(-1, [&] {
    Builder builder;
    int symbols = 0;
    // Just as many as there are, so that a sanitizer sees a read beyond.
    std::vector<nvinfer1::DimsExprs> in(static_cast<size_t>(count));
    for (int32_t i = 0; i < count; ++i) {
      in[static_cast<size_t>(i)] = {};
      in[static_cast<size_t>(i)].nbDims = inputs[i].nbDims;
      for (int32_t axis = 0; axis < inputs[i].nbDims; ++axis) {
        Expression* const dimension = builder.make();
        if (inputs[i].d[axis] < 0) dimension->symbol = symbols++;
        dimension->constant = inputs[i].d[axis];
        in[static_cast<size_t>(i)].d[axis] = dimension;
      }
    }
    std::vector<nvinfer1::DimsExprs> out(static_cast<size_t>(handle->outputs));
    for (auto& one : out) one = {};
    const int32_t code =
        handle->build().getOutputShapes(in.data(), count, nullptr, 0, out.data(), handle->outputs, builder);
    *operations = builder.operations;
    if (code != 0) return code;
    for (int32_t repeat = 0; repeat < repeats; ++repeat) {
      for (const nvinfer1::DimsExprs& one : out) {
        nvinfer1::Dims& result = *results++;
        result.nbDims = one.nbDims;
        for (int32_t axis = 0; axis < one.nbDims; ++axis) {
          require(builder.has(one.d[axis]), "an output's dimension is not of this builder");
          result.d[axis] = static_cast<const Expression*>(one.d[axis])->evaluate(sizes + repeat * symbols);
        }
      }
    }
    return 0;
  });
}
