"""Sentences of satellite receivers: their numbers, and what networks and receivers do to them."""

import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.logs.nmea import Fix, Inertia, NmeaDecoder, checksum
from perception.messages import Gnss, Imu
from perception.nodes.nmea_udp import NmeaUdp, NmeaUdpConfig
from perception.runtime.node import Bound

NOON_NS = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9
SECOND_NS = 10**9
# The examples that the literature on the format shares, each with the checksum it is printed with.
GGA = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"
RMC = b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A"
VTG = b"$GPVTG,054.7,T,034.4,M,005.5,N,010.2,K*48"


def sentence(body: str) -> bytes:
    return f"${body}*{checksum(body.encode()):02X}\r\n".encode()


def cycle(k: int, hz: int = 10) -> list[bytes]:
    """The sentences of one fix: a way to the north-east, a hundredth of a minute a second, from noon on."""
    of_day = f"12{k // hz // 60:02d}{k // hz % 60:02d}.{k % hz * 100 // hz:02d}"
    minutes = 7 + 0.01 * k / hz
    return [
        sentence(f"GNGGA,{of_day},48{minutes:09.6f},N,011{minutes:09.6f},E,4,12,0.8,500.0,M,47.0,M,,"),
        sentence(f"GNRMC,{of_day},A,48{minutes:09.6f},N,011{minutes:09.6f},E,19.438,045.0,010326,,,R"),
        sentence("GNVTG,045.0,T,,M,19.438,N,36.0,K,R"),
        sentence("GNHDT,044.5,T"),
        sentence(f"GPGST,{of_day},1.0,0.02,0.02,0.0,0.013,0.011,0.031"),
        sentence("GPGSV,3,1,12,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45"),
        sentence("PASHR,120000.00,044.5,T,+0.1,-0.2,+0.0,0.1,0.1,0.2,1,0"),
    ]


def fixes(decoder: NmeaDecoder, packets: list[bytes], period_ns: int = 1_000_000) -> list[Fix]:
    found = [item for k, packet in enumerate(packets) for item in decoder.feed(packet, NOON_NS + k * period_ns)]
    return [item for item in (*found, *decoder.finish()) if isinstance(item, Fix)]


def test_the_sentences_of_the_literature_have_their_known_numbers() -> None:
    (fix,) = fixes(NmeaDecoder(), [GGA + b"\r\n" + RMC + b"\r\n"])
    assert fix.of_day_ns == ((12 * 60 + 35) * 60 + 19) * SECOND_NS
    assert fix.latitude_deg == pytest.approx(48 + 7.038 / 60)
    assert fix.longitude_deg == pytest.approx(11 + 31 / 60)
    assert fix.altitude_m == pytest.approx(545.4 + 46.9)  # above the ellipsoid
    assert fix.speed_mps == pytest.approx(22.4 * 0.514444, rel=1e-5)
    assert math.degrees(fix.course_rad or 0) == pytest.approx(84.4)
    (fix,) = fixes(NmeaDecoder(), [GGA, VTG])  # one sentence a datagram, without ends of lines
    assert fix.speed_mps == pytest.approx(10.2 / 3.6, rel=2e-3)  # the sentence has both knots and km/h


def test_sentences_of_receivers_have_the_numbers_that_others_read_in_them() -> None:
    # the tests of pynmea2 (MIT) give these sentences with these values
    (fix,) = fixes(NmeaDecoder(), [b"$GPGGA,184353.07,1929.045,S,02410.506,E,1,04,2.6,100.00,M,-33.9,M,,0000*6D"])
    assert fix.of_day_ns == ((18 * 60 + 43) * 60 + 53) * SECOND_NS + 70_000_000
    assert (fix.latitude_deg, fix.longitude_deg) == pytest.approx((-19.4840833333, 24.1751), abs=1e-9)
    assert fix.altitude_m == pytest.approx(100.0 - 33.9)
    (fix,) = fixes(NmeaDecoder(), [b"$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68"])
    known = (49.274166666666666, -123.18533333333333)
    assert (fix.latitude_deg, fix.longitude_deg) == pytest.approx(known, abs=1e-12)
    gga_and_gst = [
        b"$GPGGA,172814.0,3723.46587704,N,12202.26957864,W,2,6,1.2,18.893,M,-25.669,M,2.0,0031*4F\r\n"
        b"$GPGST,172814.0,0.006,0.023,0.020,273.6,0.023,0.020,0.031*6A\r\n"
    ]  # of one instant: Trimble's documents of both
    (fix,) = fixes(NmeaDecoder(), gga_and_gst)
    assert fix.std_m == (0.020, 0.023, 0.031)  # east is that of longitude
    assert fix.longitude_deg == pytest.approx(-(122 + 2.26957864 / 60), abs=1e-12)
    # u-blox' description of its protocol: at their house in Thalwil
    house = [
        b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\r\n"
        b"$GPVTG,77.52,T,,M,0.004,N,0.008,K,A*06\r\n$GPTHS,77.52,E*34\r\n"
    ]
    (fix,) = fixes(NmeaDecoder(), house)
    assert (fix.latitude_deg, fix.longitude_deg) == pytest.approx((47.28524, 8.56525), abs=1e-5)
    assert fix.speed_mps == pytest.approx(0.008 / 3.6, abs=2e-4)
    assert math.degrees(fix.heading_rad or 0) == pytest.approx(77.52)


def test_south_and_west_are_negative_and_headings_turn_the_other_way() -> None:
    driver = NmeaUdp(NmeaUdpConfig())
    packet = (
        sentence("GPGGA,120000.00,3352.0,S,15112.0,W,1,08,1,10,M,,M,,")
        + sentence("GPVTG,270.0,T,,M,10.0,N,,K")
        + sentence("HEHDT,0.0,T")
    )
    ((_, message),) = [*driver.take(packet, NOON_NS), *driver.settled()]
    assert isinstance(message, Gnss)
    assert message.latitude_deg == pytest.approx(-(33 + 52 / 60))
    assert message.longitude_deg == pytest.approx(-(151 + 12 / 60))
    assert message.velocity_enu_mps == pytest.approx((-5.14444, 0.0, 0.0), abs=1e-4)  # west
    assert message.heading_rad == pytest.approx(math.pi / 2)  # north, counter-clockwise from east


def test_a_fix_gathers_the_sentences_of_its_instant_and_counts_the_others() -> None:
    decoder = NmeaDecoder()
    found = fixes(decoder, [b"".join(cycle(0)), b"".join(cycle(1))])
    assert [fix.of_day_ns for fix in found] == [43_200 * SECOND_NS, 43_200 * SECOND_NS + SECOND_NS // 10]
    assert found[0].std_m == (0.011, 0.013, 0.031)  # east, north, up
    assert math.degrees(found[0].heading_rad or 0) == pytest.approx(44.5)
    assert dict(decoder.skipped) == {"sentences not used": 2, "proprietary sentences": 2}


def test_a_sentence_with_a_wrong_digit_or_without_a_checksum_is_not_believed() -> None:
    decoder = NmeaDecoder()
    assert not fixes(
        decoder, [GGA.replace(b"4807", b"4817") + b"\n", GGA.partition(b"*")[0] + b"\n", b"\xff\x00binary\n"]
    )
    assert decoder.skipped["wrong checksum"] == 1
    assert decoder.skipped["unreadable"] == 2


def test_sentences_cut_anywhere_between_datagrams_are_put_together() -> None:
    stream = b"".join(part for k in range(3) for part in cycle(k))
    whole = fixes(NmeaDecoder(), [stream])
    for size in (1, 7, 64):
        decoder = NmeaDecoder()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert fixes(decoder, pieces, 1000) == [
            Fix(**{**vars(fix), "arrival_ns": found.arrival_ns})
            for fix, found in zip(whole, fixes(NmeaDecoder(), pieces, 1000), strict=True)
        ]
        assert not decoder.skipped["unreadable"]


def test_the_day_is_the_one_nearest_to_the_host_across_midnight_and_in_spite_of_the_receivers_date() -> None:
    midnight_ns = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * SECOND_NS
    before = Fix(of_day_ns=86_399 * SECOND_NS, arrival_ns=0)
    after = Fix(of_day_ns=0, arrival_ns=0)
    assert before.utc_ns(midnight_ns + SECOND_NS) == midnight_ns - SECOND_NS
    assert after.utc_ns(midnight_ns - SECOND_NS) == midnight_ns


@pytest.mark.parametrize("stamps", ["sensor", "arrival", "offset"])
def test_stamps_follow_the_stated_policy(stamps: str) -> None:
    driver = NmeaUdp(NmeaUdpConfig.model_validate({"stamps": stamps}))
    arrivals = [NOON_NS + k * SECOND_NS // 10 + lag for k, lag in enumerate((80_000_000, 50_000_000, 120_000_000))]
    found = [m for k, t_ns in enumerate(arrivals) for _, m in driver.take(b"".join(cycle(k)), t_ns)]
    found += [m for _, m in driver.settled()]
    utc = [NOON_NS + k * SECOND_NS // 10 for k in range(3)]
    expected = {
        "sensor": utc, "arrival": arrivals,
        # The first had only itself to compare with; the second was quicker, and what it shows holds from then on.
        "offset": [utc[0] + 80_000_000, utc[1] + 50_000_000, utc[2] + 50_000_000],
    }[stamps]  # fmt: skip
    assert [message.header.t_sensor_ns for message in found] == expected
    assert {message.header.clock for message in found} == {"gnss" if stamps == "sensor" else "host"}


def test_a_receiver_without_a_fix_says_nothing_and_is_counted() -> None:
    decoder = NmeaDecoder()
    searching = [
        sentence("GPGGA,,,,,,0,00,99.99,,,,,,"), sentence("GPRMC,120001.00,V,,,,,,,010326,,,N"),
        sentence("GPGGA,120002.00,4807.0,N,01131.0,E,0,0,,,,,,,"),
    ]  # fmt: skip
    assert not fixes(decoder, searching, 100_000_000)
    assert decoder.skipped["no fix"] == 3


def test_lost_doubled_and_swapped_datagrams_cost_what_was_in_them_and_no_more() -> None:
    packets = [part for k in range(100) for part in cycle(k)]
    choose = random.Random(0)
    kept = [packet for packet in packets if choose.random() > 0.05]
    doubled = [packet for packet in kept for _ in range(1 + (choose.random() < 0.1))]
    for k in range(0, len(doubled) - 1, 9):
        doubled[k], doubled[k + 1] = doubled[k + 1], doubled[k]
    found = fixes(NmeaDecoder(), doubled, 1_000_000)
    times = [fix.of_day_ns for fix in found]
    assert times == sorted(set(times))  # none twice, none going back
    assert len(found) >= 95  # each lacks at most some of what it says
    for fix in found:  # and nothing is made up
        minutes = 7 + 0.01 * (fix.of_day_ns - 43_200 * SECOND_NS) / SECOND_NS
        assert fix.latitude_deg == pytest.approx(48 + minutes / 60, abs=1e-9)


def test_a_receiver_that_starts_anew_with_another_time_is_believed_again() -> None:
    decoder = NmeaDecoder()
    packets = [b"".join(cycle(k)) for k in range(20)]
    morning = sentence("GPGGA,080000.00,4807.0,N,01131.0,E,1,08,0.9,545.4,M,46.9,M,,")
    found = fixes(decoder, [*packets, morning, *packets], 100_000_000)
    assert len(found) == 41
    assert decoder.skipped["times set"] == 1


def test_inertial_sentences_are_in_the_units_of_their_manual() -> None:
    body = "VNIMU,-01.1,-02.2,+03.3,+00.100,-00.200,-09.810,+0.0010,-0.0020,+0.0300,+25.1,+101.3"
    (inertia,) = NmeaDecoder().feed(sentence(body), 5)
    assert inertia == Inertia(5, (0.1, -0.2, -9.81), (0.001, -0.002, 0.03))
    driver = NmeaUdp(NmeaUdpConfig(imu="imu"))
    ((topic, message),) = driver.take(sentence(body), 5)
    assert topic == "imu/imu"
    assert isinstance(message, Imu)
    assert message.header.t_sensor_ns == 5
    assert not list(NmeaUdp(NmeaUdpConfig()).take(sentence(body), 5))


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([GGA, RMC + b"\r\n", b"$GP", b"*", b"\n"]))))
@settings(max_examples=100, deadline=None)
def test_no_bytes_break_the_decoder(pieces: list[bytes]) -> None:
    for fix in fixes(NmeaDecoder(), pieces):
        assert fix.latitude_deg == pytest.approx(48 + 7.038 / 60)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listened(driver: NmeaUdp, seconds: float) -> Iterator[object]:
    end = time.monotonic() + seconds
    for _, item in driver.messages():
        yield item
        if time.monotonic() > end:
            return


def test_a_drive_sent_over_the_network_arrives_and_the_status_tells_of_the_pause_in_it() -> None:
    port = free_port()
    driver = NmeaUdp(NmeaUdpConfig(address="127.0.0.1", port=port, stamps="arrival"))
    rounds = [*range(20), *range(60, 80)]  # ten times faster than measured, and silent for 4 s of it

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            started = time.monotonic()
            for k in rounds:
                time.sleep(max(0.0, started + k * 0.01 - time.monotonic()))
                for packet in cycle(k):
                    sender.sendto(packet, ("127.0.0.1", port))

    items = listened(driver, 60.0)
    assert isinstance(next(items), Bound)  # it listens
    thread = threading.Thread(target=send)
    began_ns = time.time_ns()
    thread.start()
    found: list[Gnss] = []
    for item in items:
        found += [item] if isinstance(item, Gnss) else []
        if len(found) == len(rounds):
            break
    thread.join()
    assert all(began_ns <= message.header.t_sensor_ns <= time.time_ns() for message in found)
    (note,) = driver.monitor.notes(time.monotonic_ns())
    assert "proprietary sentences: 4" in note
    driver.monitor.period_ns = None  # what the machine's load made of the pauses is not the receiver's
    assert not driver.monitor.degraded(time.monotonic_ns())
