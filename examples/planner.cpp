// Read the objects and the state of a running graph with ZeroMQ and MessagePack alone.
//
//   sudo apt install libmsgpack-cxx-dev cppzmq-dev
//   g++ -std=c++17 -DMSGPACK_NO_BOOST planner.cpp -lzmq -o planner
//   ./planner [ENDPOINT [COUNT]]
//
// A message is two frames, [topic, record]; a record is one MessagePack array [header, body, ..., timing]. Look fields up
// by name and ignore what you do not know. Silence of the state for two of its periods means unsafe.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>

#include <msgpack.hpp>
#include <zmq.hpp>

using Clock = std::chrono::steady_clock;

// The value of a key of a map; numbers may stand there as whole ones, as<double>() takes both.
static const msgpack::object& field(const msgpack::object& map, const std::string& name) {
  if (map.type != msgpack::type::MAP) throw std::runtime_error("no map where one was expected");
  for (uint32_t i = 0; i < map.via.map.size; ++i) {
    const auto& pair = map.via.map.ptr[i];
    if (pair.key.type == msgpack::type::STR && pair.key.as<std::string>() == name) return pair.val;
  }
  throw std::runtime_error("no field " + name);
}

static const msgpack::object& item(const msgpack::object& list, uint32_t index) {
  if (list.type != msgpack::type::ARRAY || index >= list.via.array.size) throw std::runtime_error("list too short");
  return list.via.array.ptr[index];
}

struct Safety {
  std::string word = "unsafe";
  std::chrono::nanoseconds period{500'000'000};
  Clock::time_point heard{};

  std::string now() const { return Clock::now() - heard > 2 * period ? "unsafe (silent)" : word; }
};

static void print_objects(const msgpack::object& header, const msgpack::object& body) {
  std::cout << "objects at " << field(header, "t_sensor_ns").as<int64_t>() << " ns in "
            << field(header, "frame_id").as<std::string>() << "\n";
  const auto& objects = field(body, "objects");
  for (uint32_t i = 0; i < objects.via.array.size; ++i) {
    const auto& thing = objects.via.array.ptr[i];
    const auto& center = field(thing, "center_m");
    const auto& covariance = field(thing, "covariance_pose");  // nil, or 21 numbers: x y z roll pitch yaw, upper triangle
    std::cout << "  " << field(thing, "id").as<uint64_t>() << " " << item(item(field(thing, "classes"), 0), 0).as<std::string>()
              << " exists with " << field(thing, "existence_probability").as<double>() << " at "
              << item(center, 0).as<double>() << " " << item(center, 1).as<double>() << " m";
    if (field(thing, "has_velocity").as<bool>())
      std::cout << ", " << item(field(thing, "velocity_mps"), 0).as<double>() << " m/s ahead";
    if (!covariance.is_nil()) std::cout << ", variance of x " << item(covariance, 0).as<double>() << " m2";
    std::cout << "\n";
  }
}

int main(int argc, char** argv) {
  const std::string endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:5560";
  long left = argc > 2 ? std::atol(argv[2]) : -1;
  zmq::context_t context;
  zmq::socket_t socket(context, zmq::socket_type::sub);
  socket.set(zmq::sockopt::rcvhwm, 2);
  socket.set(zmq::sockopt::rcvtimeo, 200);  // look at the silence now and then
  socket.set(zmq::sockopt::heartbeat_ivl, 1000);
  socket.connect(endpoint);
  socket.set(zmq::sockopt::subscribe, "objects");
  socket.set(zmq::sockopt::subscribe, "state");
  Safety safety;
  std::map<std::string, uint64_t> last;
  while (left != 0) {
    zmq::message_t topic, record;
    if (!socket.recv(topic)) {
      std::cout << "graph is " << safety.now() << "\n";
      continue;
    }
    if (!socket.recv(record)) continue;
    try {
      const auto handle = msgpack::unpack(static_cast<const char*>(record.data()), record.size());
      const auto& header = item(handle.get(), 0);
      const auto& body = item(handle.get(), 1);
      const auto name = topic.to_string();
      const auto seq = field(header, "seq").as<uint64_t>();
      if (last.count(name) && seq > last[name] + 1) std::cout << seq - last[name] - 1 << " of " << name << " lost\n";
      last[name] = seq;
      if (name == "state") {
        safety.word = field(body, "state").as<std::string>();
        safety.period = std::chrono::nanoseconds(field(body, "period_ns").as<int64_t>());
        safety.heard = Clock::now();
      } else if (name == "objects") {
        print_objects(header, body);
        std::cout << "graph is " << safety.now() << std::endl;
        --left;
      }
    } catch (const std::exception& error) {
      std::cerr << "a record that cannot be read: " << error.what() << "\n";
    }
  }
}
