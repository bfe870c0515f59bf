#include "warpgroup.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "failure.h"
#include "warp.h"

namespace emulator {
namespace {

constexpr uint32_t LINES_A = 64, LINES_B = 128, DEPTH = 16, SUMS = 64, WARPS = 4;

float widen(uint16_t bf16) {
    uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

std::string show(Where where) {
    const char* name = std::strrchr(where.file, '/');
    return format("%s:%d", name ? name + 1 : where.file, where.line);
}

// Fields of a matrix descriptor (PTX ISA, "matrix descriptor format"): addresses and distances in units of 16 bytes.
struct Descriptor {
    uint32_t start, leading, stride, base, swizzle;

    explicit Descriptor(uint64_t bits)
        : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4), base(bits >> 49 & 7),
          swizzle(bits >> 62) {}
};

// Reads lines [first, first + count) of an operand. The layouts are those of 128-byte swizzling: rows of 128 bytes, eight of them a piece, chunk c of row r
// at c xor r. Lines along K: a row is a line, pieces of 8 lines `stride` apart. Across: a row is a place of K and holds 64 lines; pieces of 8 places `stride`,
// blocks of 64 lines `leading` apart.
void read(float (*to)[DEPTH], uint64_t bits, bool across, uint32_t first, uint32_t count, const char* name, Where where) {
    Block& block = *running;
    Descriptor descriptor(bits);
    if (descriptor.swizzle != 1) {
        block.fail(Error::launch_failed, format("wgmma at %s: swizzle mode %u of %s; only 1, of 128 bytes, is emulated", show(where).c_str(),
                                                descriptor.swizzle, name));
    }
    if ((descriptor.start >> 7 & 7) != 0 || descriptor.base != 0) {
        block.fail(Error::misaligned_address,
                   format("wgmma at %s: %s begins at byte %lld of shared memory, in the middle of a piece of 1024 bytes", show(where).c_str(), name,
                          static_cast<long long>(descriptor.start) - SHARED_BASE));
    }
    auto chunk = [&](uint32_t address) {
        address ^= (address >> 7 & 7) << 4;
        return reinterpret_cast<const uint16_t*>(block.shared_for_products(address, name, where));
    };
    if (across) {
        for (uint32_t k = 0; k < DEPTH; k++) {
            for (uint32_t line = first; line < first + count; line += 8) {
                uint32_t at = descriptor.start + line / 64 * descriptor.leading + line % 64 * 2 + k / 8 * descriptor.stride + k % 8 * 128;
                const uint16_t* values = chunk(at);
                for (uint32_t i = 0; i < 8; i++) to[line - first + i][k] = widen(values[i]);
            }
        }
    } else {
        for (uint32_t line = first; line < first + count; line++) {
            for (uint32_t k = 0; k < DEPTH; k += 8) {
                const uint16_t* values = chunk(descriptor.start + line / 8 * descriptor.stride + line % 8 * 128 + k * 2);
                for (uint32_t i = 0; i < 8; i++) to[line - first][k + i] = widen(values[i]);
            }
        }
    }
}

// Adds the product of this warp's 16 lines of A to each lane's sums.
void compute(const Pending& product, uint32_t warp, float* const* sums) {
    float a[16][DEPTH], b[LINES_B][DEPTH];
    read(a, product.a, product.a_across, warp % WARPS * 16, 16, "the left operand", product.where);
    read(b, product.b, product.b_across, 0, LINES_B, "the right operand", product.where);
    for (uint32_t row = 0; row < 16; row++) {
        for (uint32_t column = 0; column < LINES_B; column++) {
            float sum = 0.0f;
            for (uint32_t k = 0; k < DEPTH; k++) sum += a[row][k] * b[column][k];
            // Sum i of lane l: row l / 4 + 8 (i / 2 mod 2), column 8 (i / 4) + 2 (l mod 4) + i mod 2.
            uint32_t lane = row % 8 * 4 + column % 8 / 2, i = column / 8 * 4 + row / 8 * 2 + column % 2;
            sums[lane][i] += sum;
        }
    }
}

// The copy of a lane's sums that a product under way adds to.
std::vector<float>& held(Warp& warp, float* const* sums) {
    for (Held& entry : warp.held) {
        if (entry.sums[0] == sums[0]) return entry.values;
    }
    Held entry;
    std::copy(sums, sums + WARP, entry.sums);
    entry.values.resize(WARP * SUMS);
    for (uint32_t lane = 0; lane < WARP; lane++) {
        std::memcpy(&entry.values[lane * SUMS], sums[lane], SUMS * sizeof(float));
        std::fill(sums[lane], sums[lane] + SUMS, std::numeric_limits<float>::quiet_NaN());
    }
    warp.held.push_back(std::move(entry));
    return warp.held.back().values;
}

void fence(void* const*, uint32_t) { running->own_warp().ordered = true; }

void commit(void* const*, uint32_t) { running->own_warp().product_groups++; }

void multiply(void* const* operands, uint32_t) {
    Block& block = *running;
    Warp& warp = block.own_warp();
    const auto* own = static_cast<const WarpgroupProduct*>(operands[0]);
    Pending product{own->a, own->b, own->a_across, own->b_across, warp.product_groups, warp.where, {}};
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const auto* other = static_cast<const WarpgroupProduct*>(operands[lane]);
        product.sums[lane] = other->sums;
        if (other->a != own->a || other->b != own->b) {
            block.fail(Error::launch_failed, format("wgmma at %s: lanes of a warp with different operands", show(warp.where).c_str()));
        }
    }
    if (!warp.ordered) {
        block.fail(Error::launch_failed,
                   format("wgmma at %s without a wgmma_fence since the sums were last waited for", show(warp.where).c_str()));
    }
    block.same_product(product);
    if (block.launch->schedule.copies == Copies::eager) {
        compute(product, block.warp_number(), product.sums);
    } else {
        held(warp, product.sums);
    }
    warp.pending.push_back(product);
}

void wait(void* const* operands, uint32_t) {
    Block& block = *running;
    Warp& warp = block.own_warp();
    uint32_t groups = *static_cast<const uint32_t*>(operands[0]);
    bool late = block.launch->schedule.copies == Copies::lazy;
    size_t done = 0;
    while (done < warp.pending.size() && warp.pending[done].group + groups < warp.product_groups) {
        const Pending& product = warp.pending[done++];
        if (!late) continue;
        std::vector<float>& values = held(warp, product.sums);
        float* sums[WARP];
        for (uint32_t lane = 0; lane < WARP; lane++) sums[lane] = &values[lane * SUMS];
        compute(product, block.warp_number(), sums);
    }
    warp.pending.erase(warp.pending.begin(), warp.pending.begin() + static_cast<std::ptrdiff_t>(done));
    // Registers that nothing adds to any more are the thread's again.
    for (size_t i = warp.held.size(); i-- > 0;) {
        const Held& entry = warp.held[i];
        auto uses = [&](const Pending& product) { return product.sums[0] == entry.sums[0]; };
        if (std::any_of(warp.pending.begin(), warp.pending.end(), uses)) continue;
        for (uint32_t lane = 0; lane < WARP; lane++) std::memcpy(entry.sums[lane], &entry.values[lane * SUMS], SUMS * sizeof(float));
        warp.held.erase(warp.held.begin() + static_cast<std::ptrdiff_t>(i));
    }
    warp.ordered = false;
}

const Operation FENCE{"wgmma_fence", true, true, fence};
const Operation COMMIT{"wgmma_commit", true, true, commit};
const Operation WAIT{"wgmma_wait", true, true, wait};
const Operation MULTIPLY{"wgmma", true, true, multiply};

}  // namespace

void warpgroup_fence(Where where) {
    Meeting meeting;
    running->operate(FENCE, &meeting, where);
}

void warpgroup_commit(Where where) {
    Meeting meeting;
    running->operate(COMMIT, &meeting, where);
}

void warpgroup_wait(uint32_t groups, Where where) { running->operate(WAIT, &groups, where); }

void warpgroup_multiply(WarpgroupProduct product, Where where) { running->operate(MULTIPLY, &product, where); }

}  // namespace emulator
