// Simulates the messages of a file with SimGrid; prints when the last one arrives, and the seconds
// of CPU time that its run took.  bench/simgrid.py writes the file, compiles this and runs it.
//
// The file: torus or fat-tree; the number of extents, and these, the fastest first; bandwidth and
// latency; ranks and mailboxes; then for each rank its stages: their number, and for each the number
// of its messages, and for each of these the mailbox and the bytes, 0 where it is received.

#include <simgrid/kernel/routing/NetPoint.hpp>
#include <simgrid/s4u.hpp>

#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace s4u = simgrid::s4u;

struct Message {
  int mailbox;
  double nbytes;
};
using Stage = std::vector<Message>;

static s4u::NetZone* cluster(std::istream& file) {
  std::string kind;
  size_t extents;
  file >> kind >> extents;
  std::vector<unsigned long> shape(extents);
  for (auto& extent : shape) file >> extent;
  double bandwidth, latency;
  file >> bandwidth >> latency;
  s4u::ClusterCallbacks callbacks(
      [](s4u::NetZone* zone, const std::vector<unsigned long>&, unsigned long number) {
        auto* host = zone->create_host("host-" + std::to_string(number), 1e9)->seal();
        simgrid::kernel::routing::NetPoint* none = nullptr;
        return std::make_pair(host->get_netpoint(), none);
      });
  const auto both_ways = s4u::Link::SharingPolicy::SPLITDUPLEX;
  if (kind == "torus")
    return s4u::create_torus_zone("cluster", nullptr, shape, callbacks, bandwidth, latency, both_ways);
  std::vector<unsigned int> children(shape.begin(), shape.end()), parents{1}, cables(extents, 1);
  parents.insert(parents.end(), children.begin(), children.end() - 1);
  s4u::FatTreeParams tree(extents, children, parents, cables);
  return s4u::create_fatTree_zone("cluster", nullptr, tree, callbacks, bandwidth, latency, both_ways);
}

int main(int count, char** arguments) {
  s4u::Engine engine(&count, arguments);
  std::ifstream file(arguments[1]);
  cluster(file)->seal();
  size_t ranks, boxes;
  file >> ranks >> boxes;
  std::vector<s4u::Mailbox*> mailboxes(boxes);
  for (size_t i = 0; i < boxes; i++) mailboxes[i] = s4u::Mailbox::by_name(std::to_string(i));
  static char payload;  // nothing looks at it
  std::vector<std::vector<Stage>> all(ranks);
  for (size_t rank = 0; rank < ranks; rank++) {
    size_t size;
    file >> size;
    all[rank].resize(size);
    for (auto& stage : all[rank]) {
      file >> size;
      stage.resize(size);
      for (auto& message : stage) file >> message.mailbox >> message.nbytes;
    }
    auto play = [&mailboxes, &stages = all[rank]] {
      for (const auto& stage : stages) {
        std::vector<s4u::CommPtr> under_way;
        std::vector<char*> received(stage.size());
        for (size_t i = 0; i < stage.size(); i++) {
          auto* mailbox = mailboxes[stage[i].mailbox];
          if (stage[i].nbytes > 0)
            under_way.push_back(mailbox->put_async(&payload, uint64_t(stage[i].nbytes)));
          else
            under_way.push_back(mailbox->get_async<char>(&received[i]));
        }
        s4u::Comm::wait_all(under_way);
      }
    };
    auto* host = engine.host_by_name("host-" + std::to_string(rank));
    s4u::Actor::create("rank " + std::to_string(rank), host, play);
  }
  if (!file) {
    std::cerr << arguments[1] << ": ends too early" << std::endl;
    return 1;
  }
  const std::clock_t begin = std::clock();
  engine.run();
  std::cout.precision(9);
  std::cout << s4u::Engine::get_clock() << " " << double(std::clock() - begin) / CLOCKS_PER_SEC
            << std::endl;
}
