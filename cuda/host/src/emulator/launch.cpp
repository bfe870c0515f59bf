#include "launch.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "fault.h"

namespace emulator {
namespace {

std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

// The work of one launch, shared by the OS threads.
struct Grid {
    const Launch* launch;
    std::vector<uint32_t> order;
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    Failure failure;

    void work() {
        // Stacks and shared memory are kept from launch to launch.
        thread_local Block block;
        for (size_t i; !failed && (i = next++) < order.size();) {
            uint32_t number = order[i];
            const Dim3& grid = launch->grid;
            Dim3 index{number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
            Failure one = block.run(*launch, index, number);
            if (one.error == Error::none) continue;
            std::lock_guard<std::mutex> lock(mutex);
            if (!failed.exchange(true)) failure = one;
        }
    }
};

// OS threads that wait for grids. The caller of a launch works too.
class Workers {
public:
    explicit Workers(unsigned count) {
        for (unsigned i = 0; i < count; i++) {
            std::thread([this] { serve(); }).detach();
        }
        total = count;
    }

    void run(Grid& grid) {
        if (total > 0 && grid.order.size() > 1) {
            std::unique_lock<std::mutex> lock(mutex);
            job = &grid;
            generation++;
            busy = total;
            wake.notify_all();
        }
        grid.work();
        std::unique_lock<std::mutex> lock(mutex);
        done.wait(lock, [this] { return busy == 0; });
        job = nullptr;
    }

private:
    void serve() {
        catch_faults();
        uint64_t seen = 0;
        for (;;) {
            Grid* grid;
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return generation != seen; });
                seen = generation;
                grid = job;
            }
            grid->work();
            std::unique_lock<std::mutex> lock(mutex);
            if (--busy == 0) done.notify_all();
        }
    }

    std::mutex mutex;
    std::condition_variable wake, done;
    Grid* job = nullptr;
    uint64_t generation = 0;
    unsigned busy = 0;
    unsigned total = 0;
};

unsigned worker_count() {
    const char* text = std::getenv("ROENTGEN_EMULATOR_THREADS");
    unsigned wanted = text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : std::thread::hardware_concurrency();
    return std::clamp(wanted, 1u, 64u) - 1;
}

}  // namespace

void register_kernel(Kernel kernel) {
    std::string name = kernel.name;
    kernels().emplace(std::move(name), std::move(kernel));
}

const Kernel* find_kernel(const std::string& name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

Failure run_grid(const Launch& launch) {
    // Never destroyed: its threads wait until the process ends.
    static Workers* workers = new Workers(worker_count());
    catch_faults();
    Grid grid;
    grid.launch = &launch;
    grid.order.resize(static_cast<size_t>(launch.grid.x) * launch.grid.y * launch.grid.z);
    std::iota(grid.order.begin(), grid.order.end(), 0u);
    Random random{launch.schedule.seed};
    random.shuffle(grid.order);
    workers->run(grid);
    return grid.failure;
}

}  // namespace emulator
