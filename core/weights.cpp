// SPDX-License-Identifier: Apache-2.0
// Access to the tensors of an opened checkpoint. Opening and checking is checkpoint_open.cpp.
#include "core/weights.hpp"

#include <array>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <openssl/evp.h>

#include "core/checkpoint_check.hpp"
#include "core/error.hpp"
#include "core/text.hpp"

namespace dsv4 {
namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) out += fmt::format("{:02x}", std::to_integer<int>(b));
  return out;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void update(std::string_view text) {
    check(EVP_DigestUpdate(context_.get(), text.data(), text.size()) == 1);
  }
  std::string finish() {
    std::array<std::byte, EVP_MAX_MD_SIZE> digest;
    unsigned int size = 0;
    check(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()),
                             &size) == 1);
    return hex({digest.data(), size});
  }

 private:
  static void check(bool ok) {
    if (!ok) throw Error("libcrypto cannot compute a SHA-256");
  }
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

std::uint64_t Checkpoint::total_bytes() const {
  std::uint64_t total = 0;
  for (const auto& [name, view] : tensors_) total += view.bytes.size();
  return total;
}

const TensorView& Checkpoint::tensor(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    throw WeightError(fmt::format("{}: no tensor {}", path_.string(), name),
                      nearest_hint(name, tensors_));
  }
  return it->second;
}

Weight Checkpoint::matrix(const std::string& stem) const {
  const bool bare = !has(stem + ".weight") && has(stem);
  Weight out;
  out.name = bare ? stem : stem + ".weight";
  const TensorView& view = tensor(out.name);
  if (view.shape.size() != 2) {
    throw WeightError(fmt::format("{}: tensor {}: expected a matrix, found shape {}",
                                  path_.string(), out.name, to_string(view.shape)));
  }
  out.dtype = view.dtype;
  out.rows = view.shape[0];
  out.cols = view.dtype == DType::I8 ? 2 * view.shape[1] : view.shape[1];
  out.data = view.bytes.data();
  if (!bare && has(stem + ".scale")) {
    const TensorView& scale = tensor(stem + ".scale");
    if (!scales_checked_) check_scale(path_, stem + ".scale", scale);
    out.scale = reinterpret_cast<const std::uint8_t*>(scale.bytes.data());
  }
  return out;
}

Row Checkpoint::vector(const std::string& name) const {
  const TensorView& view = tensor(name);
  if (view.shape.size() != 1) {
    throw WeightError(fmt::format("{}: tensor {}: expected a vector, found shape {}",
                                  path_.string(), name, to_string(view.shape)));
  }
  Weight w;
  w.dtype = view.dtype;
  w.rows = 1;
  w.cols = view.shape[0];
  w.data = view.bytes.data();
  w.name = name;
  Row out(w.cols);
  dequantize(w, 0, 1, 0, w.cols, out.data(), w.cols);
  return out;
}

std::string Checkpoint::fingerprint() const {
  constexpr std::size_t kEnds = 64;
  Sha256 sha;
  for (const auto& [tensor_name, view] : tensors_) {
    const auto n = std::min(kEnds, view.bytes.size());
    std::string shape;
    for (const std::int64_t d : view.shape)
      shape += fmt::format("{}{}", shape.empty() ? "" : ",", d);
    sha.update(fmt::format("{}\t{}\t[{}]\t{}\t{}\n", tensor_name, name(view.dtype), shape,
                           hex(view.bytes.first(n)), hex(view.bytes.last(n))));
  }
  return sha.finish();
}

}  // namespace dsv4
