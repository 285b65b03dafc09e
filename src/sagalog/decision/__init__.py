"""The decision: a record and a message give the next record. Pure.

    message ─► advance ─► (the handler) ─► finish ─► draft ─► record

Read record.py and entries.py for what is stored of an instance, message.py for what comes to it, then these in their
order. What they are made of, by what it is about:

    record        entries, pages, state, ids
    message       answer, timers, timer_queue, moments
    advance       step_context, phases, kept, keeping, passing, cut_off, requests
    finish        checked, keys, reservation
    draft         inbox, lookup, sequences, ending, compensation, parking
    itinerary     joins, gathers, gathering, gather_ends
    children      planned_child
    repair        cancelling, dropping, dropped_legs, dropped_children, family_effects, repair_words
    controls      circuits, budget
"""
