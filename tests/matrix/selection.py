"""Which tests run inside a guest, and which don't, each for a reason.

What isn't in the guest, a compiler or a browser, is no reason: those tests skip themselves, and are reported as such.
"""

from __future__ import annotations

__all__ = ["BRIEF", "LEFT_OUT", "WANTS", "WHOLE", "words"]

WHOLE = ("tests/kernel", "tests/faults", "tests/matrix/test_native_routes.py", "tests/cli/test_doctor.py")

# Between kernels these differ most; they take about two minutes where nothing else runs.
BRIEF = (
    "tests/matrix/test_native_routes.py",
    "tests/kernel/test_attach.py",
    "tests/kernel/test_assemble_in_user_namespace.py",
    "tests/kernel/test_assemble_upper.py",
    "tests/kernel/test_idmap_kernel.py",
    "tests/kernel/test_query_lookup.py",
    "tests/kernel/test_query_namespaces.py",
    "tests/kernel/test_namespaces.py",
    "tests/kernel/test_replace_routes.py",
    "tests/kernel/test_watch.py",
    "tests/faults/test_each_call_fails.py",
)

# A file, or a test, by its name; and why it isn't run under emulation.
LEFT_OUT: dict[str, str] = {
    "tests/kernel/test_query_churn.py": "thousands of mounts by two processes: minutes under emulation",
    "tests/kernel/test_watch_flood.py": "tens of thousands of events: minutes under emulation",
    "tests/kernel/test_differential.py": "hundreds of random trees: minutes under emulation",
    "tests/kernel/test_query_lookup.py::test_a_signal_handler_may_ask_in_between": "its timer is too fast",
    "tests/faults/test_replace_at_once.py::test_many_processes": "a reader that stops between a mount and one below it",
    "tests/kernel/test_replace_readers.py": "readers that race for a given time, and must come round often enough",
}


# What a test of one thing needs besides, on kernels that lack it: a name or the beginning of one; the feature of
# mountfd.Feature without which it is skipped; and why. What the library refuses by NotSupported needs no line here.
_UPPER = "tests/kernel/test_assemble_upper.py::"
_LOOKUP = "tests/kernel/test_query_lookup.py::"
_BY_ID = ("STATX_MNT_ID_UNIQUE", "it compares ids, which here aren't unique")
_IDS = ("LISTMOUNT", "before, namespaces have no ids, and none is reached by its own")
WANTS: dict[str, tuple[str, str]] = {
    f"{_UPPER}test_warning_about_somebody_elses_overlay": (
        "OVERLAY_LAYER_DETACHED",
        "before, such a warning is believed at once",
    ),
    "tests/kernel/test_assemble_layers.py::test_layers_below_hidden_directories_share_a_clone": (
        "OVERLAY_LAYER_DETACHED",
        "on the other routes each layer also gets a bind mount on the stage",
    ),
    **{
        f"{_LOOKUP}test_{name}": _BY_ID
        for name in (
            "a_path_a_descriptor_a_handle_and_an_id_tell_the_same",
            "only_what_is_asked_for_is_told",
            "without_the_calls_the_table_answers",
            "a_detached_mount_is_told_by_its_descriptor",
            "a_lazily_unmounted_mount_is_told_by_its_descriptor",
            "a_descriptor_of_no_filesystem_lies_on_a_mount_of_the_kernels_own",
            "what_is_gone_is_named",
            "an_ordinary_user_is_told_the_same",
        )
    },
    "tests/kernel/test_query_namespaces.py::test_a_walk_that_is_broken_off_closes_what_it_holds": _IDS,
    "tests/kernel/test_query_namespaces.py::test_another_users_namespace_is_denied_with_a_hint_though_it_is_held": _IDS,
    "tests/kernel/test_namespaces.py::test_where_processors_cannot_be_chosen_one_is_made_all_the_same": (
        "CLONE_DETACHED",
        "before, a detached root serves once",
    ),
    f"{_LOOKUP}test_in_a_chroot_the_own_root_is_told_as_far_as_it_may_be": (
        "STATMOUNT",
        "before, it takes a /proc, and there is none in that root",
    ),
}


def words(*places: str) -> list[str]:
    """Give the words for pytest that run what lies at these places, but for what is left out."""
    return [*places, *(f"--deselect={place}" for place in LEFT_OUT)]
