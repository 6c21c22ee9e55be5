// The device, its memory, and a queue, in Metal's own words. Compiled with ARC.

#include "metal/device.hpp"

#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "metal/dispatches.hpp"
#include "metal/embedded_kernels.hpp"

namespace pagedkv::metal {

namespace {

/// Bytes that Metal copies into a command itself.
constexpr std::size_t kMostSetBytes = 4096;

[[noreturn]] void throw_metal(const char* where, const char* call, NSError* error) {
  const char* const text =
      error != nil ? error.localizedDescription.UTF8String : "nothing about the cause";
  throw MetalError(pagedkv::detail::located(
      where, std::string(call) + " says \"" + text + "\"; expected success"));
}

id<MTLLibrary> compile(id<MTLDevice> device) {
  MTLCompileOptions* const options = [[MTLCompileOptions alloc] init];
  // NaN and infinities mean something to the kernels.
  options.fastMathEnabled = NO;
  NSError* error = nil;
  NSString* const source = [NSString stringWithUTF8String:embedded::kSource];
  id<MTLLibrary> library = [device newLibraryWithSource:source options:options error:&error];
  if (library == nil) throw_metal("metal", "newLibraryWithSource", error);
  return library;
}

/// The kernels: compiled with the program, or else now, from the same text.
id<MTLLibrary> make_library(id<MTLDevice> device) {
  if (embedded::kLibrarySize != 0) {
    dispatch_data_t data = dispatch_data_create(embedded::kLibrary, embedded::kLibrarySize, nil,
                                                DISPATCH_DATA_DESTRUCTOR_DEFAULT);
    NSError* error = nil;
    id<MTLLibrary> library = [device newLibraryWithData:data error:&error];
    if (library != nil) return library;
  }
  return compile(device);
}

/// A kernel and what it is specialised by.
struct PipelineKey {
  const char* name;
  std::array<std::uint32_t, kNumConstants> constants;

  friend bool operator<(const PipelineKey& a, const PipelineKey& b) noexcept {
    const int order = std::strcmp(a.name, b.name);
    return order != 0 ? order < 0 : a.constants < b.constants;
  }
};

/// The system's device, the kernels' pipelines, and the buffers that addresses lie in.
class TheDevice {
 public:
  /// @throws MetalError where there is none.
  static TheDevice& get() {
    static TheDevice& only = *new TheDevice;
    if (only.device_ == nil) {
      throw MetalError(pagedkv::detail::located(
          "metal", "no device (MTLCreateSystemDefaultDevice); expected one"));
    }
    return only;
  }

  [[nodiscard]] id<MTLDevice> device() const { return device_; }

  id<MTLComputePipelineState> pipeline(const Dispatch& dispatch) {
    const std::lock_guard lock(mutex_);
    const PipelineKey key{dispatch.name, dispatch.constants};
    const auto found = pipelines_.find(key);
    if (found != pipelines_.end()) return found->second;
    if (library_ == nil) library_ = make_library(device_);
    MTLFunctionConstantValues* const values = [[MTLFunctionConstantValues alloc] init];
    for (std::size_t i = 0; i < kNumConstants; ++i) {
      [values setConstantValue:&dispatch.constants[i] type:MTLDataTypeUInt atIndex:i];
    }
    NSError* error = nil;
    MTLComputePipelineDescriptor* const descriptor = [[MTLComputePipelineDescriptor alloc] init];
    descriptor.computeFunction =
        [library_ newFunctionWithName:[NSString stringWithUTF8String:dispatch.name]
                       constantValues:values
                                error:&error];
    if (descriptor.computeFunction == nil) {
      throw_metal(dispatch.name, "newFunctionWithName", error);
    }
    // So that registers are given out for the largest threadgroup of all.
    descriptor.maxTotalThreadsPerThreadgroup = detail_dispatches::kThreads;
    id<MTLComputePipelineState> made =
        [device_ newComputePipelineStateWithDescriptor:descriptor
                                               options:MTLPipelineOptionNone
                                            reflection:nil
                                                 error:&error];
    if (made == nil) throw_metal(dispatch.name, "newComputePipelineState", error);
    pipelines_.emplace(key, made);
    return made;
  }

  /// Buffers by the address of their contents, until `forget`.
  void remember(id<MTLBuffer> buffer) {
    const std::lock_guard lock(mutex_);
    buffers_[address_of(buffer)] = buffer;
  }
  void forget(const void* address) {
    const std::lock_guard lock(mutex_);
    buffers_.erase(reinterpret_cast<std::uintptr_t>(address));
  }
  /// The buffer that an address lies in, and how far; nil where there is none.
  [[nodiscard]] id<MTLBuffer> find(const void* address, std::size_t& offset) {
    const std::lock_guard lock(mutex_);
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    auto next = buffers_.upper_bound(at);
    if (next == buffers_.begin()) return nil;
    --next;
    offset = at - next->first;
    return offset < next->second.length ? next->second : nil;
  }

 private:
  TheDevice() : device_(MTLCreateSystemDefaultDevice()) {}

  static std::uintptr_t address_of(id<MTLBuffer> buffer) {
    return reinterpret_cast<std::uintptr_t>(buffer.contents);
  }

  id<MTLDevice> device_;
  id<MTLLibrary> library_ = nil;
  std::mutex mutex_;
  std::map<PipelineKey, id<MTLComputePipelineState>> pipelines_;
  std::map<std::uintptr_t, id<MTLBuffer>> buffers_;
};

id<MTLBuffer> make_buffer(const char* where, std::size_t bytes) {
  id<MTLDevice> device = TheDevice::get().device();
  id<MTLBuffer> buffer = nil;
  if (bytes <= device.maxBufferLength) {
    buffer = [device newBufferWithLength:bytes == 0 ? 1 : bytes
                                 options:MTLResourceStorageModeShared];
  }
  if (buffer == nil) {
    throw MetalError(pagedkv::detail::located(
        where, "no buffer of " + std::to_string(bytes) + " bytes; expected at most " +
                   std::to_string(device.maxBufferLength) + ", of memory that is free"));
  }
  return buffer;
}

/// The address of a buffer's contents, which keeps the buffer.
std::shared_ptr<void> share(id<MTLBuffer> buffer) {
  TheDevice& device = TheDevice::get();
  device.remember(buffer);
  return {buffer.contents, [&device](void* address) { device.forget(address); }};
}

class MetalQueue final : public Queue {
 public:
  MetalQueue()
      : device_(TheDevice::get()),
        queue_([device_.device() newCommandQueue]),
        errors_(make_buffer("metal.make_queue", sizeof(std::uint32_t))) {
    if (queue_ == nil) throw_metal("metal.make_queue", "newCommandQueue", nil);
    *error_word() = 0;
    device_.remember(errors_);
  }
  MetalQueue(const MetalQueue&) = delete;
  MetalQueue& operator=(const MetalQueue&) = delete;
  ~MetalQueue() override {
    commit();
    [last_ waitUntilCompleted];
    device_.forget(errors_.contents);
    if (workspace_ != nil) device_.forget(workspace_.contents);
  }

  void dispatch(const Dispatch& dispatch) override {
    @autoreleasepool {
      id<MTLComputePipelineState> pipeline = device_.pipeline(dispatch);
      const auto threads =
          std::size_t{dispatch.threads.x} * dispatch.threads.y * dispatch.threads.z;
      if (threads > pipeline.maxTotalThreadsPerThreadgroup) {
        throw MetalError(pagedkv::detail::located(
            dispatch.name, std::to_string(threads) + " threads a threadgroup; expected at most " +
                               std::to_string(pipeline.maxTotalThreadsPerThreadgroup) +
                               ", what the device has registers for"));
      }
      std::array<id<MTLBuffer>, Dispatch::kMaxArguments> buffers;
      std::array<std::size_t, Dispatch::kMaxArguments> offsets{};
      for (std::size_t i = 0; i < dispatch.num_arguments; ++i) {
        buffers[i] = buffer_of(dispatch, dispatch.arguments[i], offsets[i]);
      }
      // All is there: from here on nothing fails.
      id<MTLComputeCommandEncoder> encoder = open_encoder();
      [encoder setComputePipelineState:pipeline];
      for (std::size_t i = 0; i < dispatch.num_arguments; ++i) {
        const Argument& argument = dispatch.arguments[i];
        if (buffers[i] != nil) {
          [encoder setBuffer:buffers[i] offset:offsets[i] atIndex:i];
        } else {
          [encoder setBytes:argument.data length:argument.host_bytes atIndex:i];
        }
      }
      if (dispatch.shared_bytes != 0) {
        [encoder setThreadgroupMemoryLength:dispatch.shared_bytes atIndex:0];
      }
      const auto size = [](Size s) { return MTLSizeMake(s.x, s.y, s.z); };
      [encoder dispatchThreadgroups:size(dispatch.groups)
              threadsPerThreadgroup:size(dispatch.threads)];
    }
  }

  void commit() override {
    if (encoder_ == nil) return;
    [encoder_ endEncoding];
    [last_ commit];
    encoder_ = nil;
  }

  void* workspace(std::size_t bytes) override {
    if (workspace_ == nil || workspace_.length < bytes) {
      // Commands that use the old one keep it.
      id<MTLBuffer> larger = make_buffer("metal.Queue.workspace", bytes);
      if (workspace_ != nil) device_.forget(workspace_.contents);
      workspace_ = larger;
      device_.remember(workspace_);
    }
    return workspace_.contents;
  }

  std::uint32_t* error_word() override { return static_cast<std::uint32_t*>(errors_.contents); }

  [[nodiscard]] bool owns(const void* address) const override {
    std::size_t offset = 0;
    return device_.find(address, offset) != nil;
  }

  void wait() override {
    @autoreleasepool {
      commit();
      [last_ waitUntilCompleted];
      // They run in order, and after one that failed the others may have run on what it left.
      NSError* failed = nil;
      for (id<MTLCommandBuffer> commands : pending_) {
        if (failed == nil && commands.status == MTLCommandBufferStatusError) {
          failed = commands.error;
        }
      }
      pending_.clear();
      last_ = nil;
      if (failed != nil) throw_metal("metal.Queue.wait", "a command buffer", failed);
    }
  }

 private:
  id<MTLComputeCommandEncoder> open_encoder() {
    if (encoder_ != nil) return encoder_;
    // Of those that have ended well nothing more will be asked.
    std::erase_if(pending_, [](id<MTLCommandBuffer> commands) {
      return commands.status == MTLCommandBufferStatusCompleted;
    });
    last_ = [queue_ commandBuffer];
    pending_.push_back(last_);
    // Serial: each dispatch sees what those before it wrote.
    encoder_ = [last_ computeCommandEncoder];
    return encoder_;
  }

  /// Nil for bytes that go into the command itself.
  id<MTLBuffer> buffer_of(const Dispatch& dispatch, const Argument& argument,
                          std::size_t& offset) const {
    offset = 0;
    // What a kernel does not read is bound to something, as Metal's validation asks.
    if (argument.data == nullptr) return errors_;
    if (argument.host_bytes != 0) {
      if (argument.host_bytes <= kMostSetBytes) return nil;
      id<MTLBuffer> copy = make_buffer(dispatch.name, argument.host_bytes);
      std::memcpy(copy.contents, argument.data, argument.host_bytes);
      return copy;
    }
    id<MTLBuffer> buffer = device_.find(argument.data, offset);
    if (buffer == nil) {
      pagedkv::detail::throw_shape(dispatch.name,
                                   "an array that is in no buffer of the device; expected memory "
                                   "of metal.allocate, or of a buffer that was adopted");
    }
    return buffer;
  }

  TheDevice& device_;
  id<MTLCommandQueue> queue_;
  id<MTLBuffer> errors_;
  id<MTLBuffer> workspace_ = nil;
  id<MTLCommandBuffer> last_ = nil;
  id<MTLComputeCommandEncoder> encoder_ = nil;
  std::vector<id<MTLCommandBuffer>> pending_;
};

}  // namespace

std::shared_ptr<void> allocate(std::size_t bytes) {
  @autoreleasepool {
    return share(make_buffer("metal.allocate", bytes));
  }
}

std::shared_ptr<void> adopt(void* buffer) {
  @autoreleasepool {
    id<MTLBuffer> adopted = (__bridge id<MTLBuffer>)buffer;
    if (adopted.storageMode != MTLStorageModeShared ||
        adopted.device != TheDevice::get().device()) {
      pagedkv::detail::throw_unsupported("metal.adopt",
                                         "a buffer of private storage or of another device; "
                                         "expected shared storage of the default device");
    }
    return share(adopted);
  }
}

std::shared_ptr<void> adopt_memory(void* memory, std::size_t bytes) {
  @autoreleasepool {
    id<MTLBuffer> buffer =
        [TheDevice::get().device() newBufferWithBytesNoCopy:memory
                                                     length:bytes
                                                    options:MTLResourceStorageModeShared
                                                deallocator:nil];
    if (buffer == nil) {
      throw MetalError(pagedkv::detail::located(
          "metal.adopt_memory", std::to_string(bytes) + " bytes that make no buffer; expected "
                                                        "whole pages, not too many"));
    }
    return share(buffer);
  }
}

std::string missing() {
  @autoreleasepool {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    if (device == nil) return "no Metal device (MTLCreateSystemDefaultDevice); expected one";
    if ([device supportsFamily:MTLGPUFamilyApple7]) return "";
    return std::string("the device '") + device.name.UTF8String +
           "'; expected one of family Apple 7 (M1) or later";
  }
}

bool compile_kernels() {
  @autoreleasepool {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    if (device != nil) compile(device);
    return device != nil;
  }
}

std::unique_ptr<Queue> make_queue() {
  @autoreleasepool {
    const std::string reason = missing();
    if (!reason.empty()) pagedkv::detail::throw_unsupported("metal.make_queue", reason);
    return std::make_unique<MetalQueue>();
  }
}

Queue& default_queue() {
  static Queue& only = *make_queue().release();
  return only;
}

}  // namespace pagedkv::metal
