// How a kernel fails: with a sentence that names the kernel, the block and the thread.
#include <cstdarg>
#include <cstdio>

#include "common/simt/block.h"

namespace simt {

namespace {

std::string index_text(const uint3& index) {
  char text[48];
  std::snprintf(text, sizeof(text), "(%u, %u, %u)", index.x, index.y, index.z);
  return text;
}

}  // namespace

void BlockRunner::record(cudaError_t code, const Thread* thread, const char* message) {
  std::string text = "kernel " + launch_->name + ", block " + index_text(place_.block_index);
  if (thread != nullptr) text += ", thread " + index_text(thread->place.thread_index);
  text += std::string(": ") + message + " (seed " + std::to_string(launch_->settings.seed) + ")";
  launch_->record(code, text);
  failed_ = true;
}

void BlockRunner::fail(cudaError_t code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  fail_with(code, format, values);
}

void BlockRunner::fail_with(cudaError_t code, const char* format, va_list values) {
  char message[512];
  std::vsnprintf(message, sizeof(message), format, values);
  record(code, current_, message);
  stop();
}

// Nobody can go on: says what each group of threads waits for.
void BlockRunner::report_deadlock() {
  std::string text = "deadlock:";
  for (int i = 0; i < count_;) {
    const Thread& first = *threads_[static_cast<size_t>(i)];
    int last = i;
    const auto alike = [&](const Thread& other) {
      return other.returned == first.returned && (first.returned || other.waits_at.line == first.waits_at.line);
    };
    while (last + 1 < count_ && alike(*threads_[static_cast<size_t>(last) + 1])) ++last;
    char part[256];
    std::snprintf(part, sizeof(part), "%s threads %d to %d ", i > 0 ? ";" : "", i, last);
    text += part;
    if (first.returned) {
      text += "have returned";
    } else {
      std::snprintf(part, sizeof(part), "wait in %s (%s:%d)", first.waits_for, first.waits_at.file,
                    first.waits_at.line);
      text += part;
    }
    if (text.size() > 700) {
      text += "; ...";
      break;
    }
    i = last + 1;
  }
  record(cudaErrorLaunchTimeout, nullptr, text.c_str());
}

}  // namespace simt
